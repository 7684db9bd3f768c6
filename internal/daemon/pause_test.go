package daemon_test

import (
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

func (h *host) link(ref string, timeout time.Duration, whilePaused bool) (*bangerv1.LinkVMResponse, error) {
	r, err := h.client.LinkVM(h.t.Context(), connect.NewRequest(&bangerv1.LinkVMRequest{
		Ref: ref, TimeoutMs: timeout.Milliseconds(), WhilePaused: whilePaused,
	}))
	if err != nil {
		return nil, apierr.FromConnect(err)
	}
	return r.Msg, nil
}

// A paused VM stays so whatever ends beside it, and says what it is.
func TestPause(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	for range 2 { // the second is no error
		if err := h.pauseVM("dev"); err != nil {
			t.Fatal(err)
		}
	}
	if now := h.mustGet("dev"); now.State != "paused" || now.VmmPid != vm.VmmPid {
		t.Errorf("%v", now)
	}
	_, err := h.link("dev", time.Second, false)
	wantError(t, err, banger.CodeWrongState, `vm "dev" is paused`, "banger vm resume dev")
	wantError(t, h.startVM("dev").err, banger.CodeWrongState, "is paused", "banger vm resume dev")
	wantError(t, h.deleteVM("dev", false), banger.CodeWrongState, "is paused")
	h.kill()
	h.start()
	if now := h.mustGet("dev"); now.State != "paused" || now.VmmPid != vm.VmmPid {
		t.Errorf("after the daemon was killed: %v", now)
	}
	syscall.Kill(int(h.mustGet("dev").SupervisorPid), syscall.SIGKILL)
	h.eventually("a successor is there", func() bool {
		now := h.mustGet("dev")
		return now.SupervisorPid != 0 && now.SupervisorPid != vm.SupervisorPid
	})
	if now := h.mustGet("dev"); now.State != "paused" {
		t.Errorf("after its supervisor was killed: %v", now)
	}
	h.consistent()
	if err := h.resumeVM("dev"); err != nil {
		t.Fatal(err)
	}
	if now := h.mustGet("dev"); now.State != "running" || now.Ready != "system" || now.VmmPid != vm.VmmPid {
		t.Errorf("%v", now)
	}
	if err := h.resumeVM("dev"); err != nil {
		t.Errorf("a second resume: %v", err)
	}
	h.consistent()
}

// Who has a command in a VM waits for the end of its pause, however long.
func TestLinkWhilePaused(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	if err := h.pauseVM("dev"); err != nil {
		t.Fatal(err)
	}
	if link, err := h.link("dev", time.Millisecond, true); err != nil || link.LinkSocket != "" || link.Vm.State != "paused" {
		t.Errorf("%v, %v", link, err)
	}
	answers := make(chan error, 1)
	go func() {
		link, err := h.link("dev", patience, true)
		if err == nil && link.LinkSocket == "" {
			err = banger.Errorf(banger.CodeFailed, "no socket")
		}
		answers <- err
	}()
	if err := h.resumeVM("dev"); err != nil {
		t.Fatal(err)
	}
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

func TestPausedVMEnds(t *testing.T) {
	h := newHost(t).start()
	for name, end := range map[string]func(string) error{
		"stop": h.stopVM, "kill": func(ref string) error { return h.killVM(ref, 9) },
	} {
		h.run(name)
		if err := h.pauseVM(name); err != nil {
			t.Fatal(err)
		}
		if err := end(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if vm := h.mustGet(name); vm.State != "stopped" {
			t.Errorf("%s: %v", name, vm)
		}
	}
	h.run("gone")
	if err := h.pauseVM("gone"); err != nil {
		t.Fatal(err)
	}
	if err := h.deleteVM("gone", true); err != nil {
		t.Error(err)
	}
	wantError(t, h.pauseVM("stop"), banger.CodeWrongState, "is stopped", "banger vm start stop")
	wantError(t, h.resumeVM("stop"), banger.CodeWrongState, "is stopped")
	h.consistent()
}

func TestKill(t *testing.T) {
	h := newHost(t).start()
	h.run("dev")
	if err := h.killVM("dev", 0); err != nil {
		t.Fatal(err)
	}
	vm := h.mustGet("dev")
	if vm.State != "stopped" || vm.Reason == "" {
		t.Errorf("%v", vm)
	}
	wantError(t, h.killVM("dev", 0), banger.CodeWrongState, "is stopped", "banger vm start dev")
	wantError(t, h.killVM("dev", 65), banger.CodeUsage, "signal 65")
	if c := h.startVM("dev"); c.err != nil {
		t.Fatal(c.err)
	}
	wantError(t, h.killVM("dev", 10), banger.CodeFailed, "no taste for signal 10")
	if err := h.killVM("dev", int32(syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	h.eventually("the guest has shut down", func() bool { return h.mustGet("dev").State == "stopped" })
	h.consistent()
}

// A kill does not wait for a start that does not end.
func TestKillInterruptsAStart(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "hang", NoStart: true})
	if c.err != nil {
		t.Fatal(c.err)
	}
	started := make(chan created, 1)
	go func() { started <- h.startVM("hang") }()
	h.eventually("it runs", func() bool { return h.mustGet("hang").State == "running" })
	if err := h.killVM("hang", 0); err != nil {
		t.Fatal(err)
	}
	wantError(t, (<-started).err, banger.CodeInterrupted, "is being killed")
	if vm := h.mustGet("hang"); vm.State != "stopped" {
		t.Errorf("%v", vm)
	}
	h.consistent()
}
