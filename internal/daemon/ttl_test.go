package daemon_test

import (
	"log/slog"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/store"
)

// mortal creates a VM with a time to live.
func (h *host) mortal(name string, ttl time.Duration) *bangerv1.VM {
	h.t.Helper()
	c := h.create(h.t.Context(), &bangerv1.CreateVMRequest{Name: name, TtlMs: ttl.Milliseconds()})
	if c.err != nil {
		h.t.Fatalf("create %s: %v\n%s", name, c.err, h.log)
	}
	return c.vm
}

func (h *host) setTTL(ref string, ttl time.Duration) error {
	ms := ttl.Milliseconds()
	return h.set(&bangerv1.SetVMRequest{Ref: ref, TtlMs: &ms})
}

func (h *host) gone(name string) {
	h.t.Helper()
	h.eventually(name+" is deleted", func() bool {
		_, err := h.get(name)
		return banger.CodeOf(err) == banger.CodeNotFound
	})
}

func TestTTL(t *testing.T) {
	h := newHost(t).start()
	vm := h.mortal("dev", time.Hour)
	if left := vm.ExpiresUnixMs - vm.CreatedUnixMs; left != time.Hour.Milliseconds() {
		t.Errorf("it has %d ms", left)
	}
	if got := h.mustGet("dev").ExpiresUnixMs; got != vm.ExpiresUnixMs {
		t.Errorf("expires at %d, %d before", got, vm.ExpiresUnixMs)
	}
	h.mortal("forever", 0)
	wantError(t, h.setTTL("dev", time.Millisecond), banger.CodeUsage, "--ttl counts from then", "banger vm set --ttl")
	wantError(t, h.setTTL("dev", -time.Second), banger.CodeUsage, "--ttl -1ms is not possible")
	wantError(t, h.create(t.Context(), &bangerv1.CreateVMRequest{TtlMs: 1 << 60}).err, banger.CodeUsage, "at most 100 years")
	if err := h.setTTL("dev", 0); err != nil || h.mustGet("dev").ExpiresUnixMs != 0 {
		t.Errorf("none: %v, %v", err, h.mustGet("dev"))
	}
	// Long enough for the set, short enough for a test.
	ttl := time.Since(time.UnixMilli(vm.CreatedUnixMs)) + 2*time.Second
	if err := h.setTTL("dev", ttl); err != nil {
		t.Fatal(err)
	}
	h.gone("dev")
	if at := time.UnixMilli(vm.CreatedUnixMs).Add(ttl); time.Now().Before(at.Truncate(time.Millisecond)) {
		t.Errorf("deleted before %s", at)
	}
	h.mustGet("forever")
	h.consistent()
}

// A VM whose time passes while no daemon runs is deleted by the next one, running or
// stopped.
func TestTTLWithoutADaemon(t *testing.T) {
	h := newHost(t).start()
	h.mortal("up", time.Hour)
	h.mortal("down", time.Hour)
	h.mortal("later", time.Hour)
	if err := h.stopVM("down"); err != nil {
		t.Fatal(err)
	}
	h.kill()
	h.expire("up", "down")
	h.start()
	h.gone("up")
	h.gone("down")
	if vm := h.mustGet("later"); vm.State != "running" || vm.ExpiresUnixMs == 0 {
		t.Errorf("%v", vm)
	}
	h.consistent()
}

// expire has the time of VMs pass, while no daemon runs.
func (h *host) expire(names ...string) {
	h.t.Helper()
	db, err := store.Open(h.home.Store(), slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	vms, err := db.VMs(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, vm := range vms {
		for _, name := range names {
			if vm.Name != name {
				continue
			}
			vm.Expires = time.Now().Add(-time.Second)
			if err := db.Update(h.t.Context(), func(tx *store.Tx) error { return tx.PutVM(vm) }); err != nil {
				h.t.Fatal(err)
			}
		}
	}
}

// A daemon that is killed at any step of such a delete has it finished by the next.
func TestTTLKilledAtEveryStep(t *testing.T) {
	for _, point := range []string{"delete.begun", "delete.stop", "delete.remove", "delete.removed"} {
		t.Run(point, func(t *testing.T) {
			h := newHost(t).start()
			h.mortal("dev", time.Hour)
			h.kill()
			h.expire("dev")
			h.launch("BANGER_FAULT=" + point + "=kill-self")
			if h.awaitEnd() == nil {
				t.Fatalf("the daemon passed %s and lives", point)
			}
			h.start()
			h.gone("dev")
			h.nothingLeft()
		})
	}
}

// A store that is lost takes no VM's time with it.
func TestTTLIsInTheSpec(t *testing.T) {
	h := newHost(t).start()
	vm := h.mortal("dev", time.Hour)
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	h.loseStore()
	h.start()
	if got := h.mustGet("dev").ExpiresUnixMs; got != vm.ExpiresUnixMs {
		t.Errorf("expires at %d, %d before", got, vm.ExpiresUnixMs)
	}
	if err := h.setTTL("dev", 0); err != nil {
		t.Fatal(err)
	}
	h.loseStore()
	h.start()
	if got := h.mustGet("dev").ExpiresUnixMs; got != 0 {
		t.Errorf("expires at %d", got)
	}
}
