package daemon_test

import (
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/layout"
)

func (h *host) set(req *bangerv1.SetVMRequest) error {
	_, err := h.client.SetVM(h.t.Context(), connect.NewRequest(req))
	return apierr.FromConnect(err)
}

func TestSetOfAStoppedVM(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	h.run("other")
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	off := false
	wish := &bangerv1.SetVMRequest{Ref: "dev", Name: "new", Vcpu: 1, MemoryMib: 300, DiskBytes: 9*banger.GiB + 1, OverlayBytes: 10 * banger.GiB, Nat: &off}
	if err := h.set(wish); err != nil {
		t.Fatal(err)
	}
	vm := h.mustGet("new")
	if vm.Vcpu != 1 || vm.MemoryMib != 300 || vm.Nat || vm.DiskBytes != 9*banger.GiB+4096 || vm.OverlayBytes != 10*banger.GiB || vm.State != "stopped" {
		t.Errorf("%v", vm)
	}
	if info, err := os.Stat(layout.Instance(vm.Dir).Work()); err != nil || info.Size() != vm.DiskBytes {
		t.Errorf("%v, %v", info, err)
	}
	hosts, err := os.ReadFile(h.home.KnownHosts())
	if err != nil || !strings.Contains(string(hosts), "new.vm") || strings.Contains(string(hosts), "dev.vm") {
		t.Errorf("known hosts: %s, %v", hosts, err)
	}
	if c := h.startVM("new"); c.err != nil || c.vm.MemoryMib != 300 {
		t.Errorf("%+v", c)
	}
	wantError(t, h.set(&bangerv1.SetVMRequest{Ref: "new", Name: "other"}), banger.CodeWrongState, `"other"`, "another VM is")
	wantError(t, h.set(&bangerv1.SetVMRequest{Ref: "new", DiskBytes: banger.GiB}), banger.CodeUsage, "disks only grow")
	wantError(t, h.set(&bangerv1.SetVMRequest{Ref: "new", Name: "N"}), banger.CodeUsage, "not valid")
	wantError(t, h.set(&bangerv1.SetVMRequest{Ref: "dev"}), banger.CodeNotFound)
	h.consistent()
}

// What needs a stopped VM is said before any of the rest is done.
func TestSetOfARunningVM(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	err := h.set(&bangerv1.SetVMRequest{Ref: "dev", Name: "new", MemoryMib: 300})
	wantError(t, err, banger.CodeWrongState, "is running", "--memory", "banger vm stop dev")
	if vm := h.mustGet("dev"); vm.MemoryMib == 300 {
		t.Errorf("%v", vm)
	}
	if err := h.set(&bangerv1.SetVMRequest{Ref: "dev", Name: "new", DiskBytes: 9 * banger.GiB}); err != nil {
		t.Fatal(err)
	}
	off := false
	if err := h.set(&bangerv1.SetVMRequest{Ref: "new", Nat: &off}); err != nil {
		t.Fatal(err)
	}
	vm := h.mustGet("new")
	if vm.DiskBytes != 9*banger.GiB || vm.State != "running" || vm.Nat {
		t.Errorf("%v", vm)
	}
	if err := h.pauseVM("new"); err != nil {
		t.Fatal(err)
	}
	wantError(t, h.set(&bangerv1.SetVMRequest{Ref: "new", DiskBytes: 10 * banger.GiB}), banger.CodeWrongState, "banger vm resume new")
	h.consistent()
}

// loseStore kills the daemon and removes its store.
func (h *host) loseStore() {
	h.kill()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		os.Remove(h.home.Store() + suffix)
	}
}

// A store that is lost is found again with what was set.
func TestSetIsInTheSpec(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	if err := h.set(&bangerv1.SetVMRequest{Ref: "dev", Name: "new", MemoryMib: 333, DiskBytes: 9 * banger.GiB}); err != nil {
		t.Fatal(err)
	}
	h.loseStore()
	h.start()
	if vm := h.mustGet("new"); vm.MemoryMib != 333 || vm.DiskBytes != 9*banger.GiB {
		t.Errorf("%v", vm)
	}
}
