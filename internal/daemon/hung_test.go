package daemon_test

import (
	"context"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
)

// mustDelete deletes by force, which waits for nobody.
func (h *host) mustDelete(ref string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	if _, err := h.client.DeleteVM(ctx, connect.NewRequest(&bangerv1.DeleteVMRequest{Ref: ref, Force: true})); err != nil {
		h.t.Fatalf("delete %s: %v\n%s", ref, err, h.log)
	}
}

func suspend(t *testing.T, vm *bangerv1.VM) {
	t.Helper()
	if err := syscall.Kill(int(vm.SupervisorPid), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// A supervisor that hangs when the daemon starts holds up neither the daemon, nor
// the other VMs, nor who wants its own VM gone.
func TestHungSupervisorAtTheStart(t *testing.T) {
	h := newHost(t).start()
	hung, slow, other := h.run("hung"), h.run("slow"), h.run("other")
	h.kill()
	suspend(t, hung)
	suspend(t, slow)
	h.start()
	if now := h.mustGet("other"); now.SupervisorPid != other.SupervisorPid {
		t.Errorf("%v", now)
	}
	if len(h.list()) != 3 {
		t.Errorf("%v", h.list())
	}
	if err := h.stopVM("other"); err != nil {
		t.Error(err)
	}
	h.mustDelete("hung")
	// One that goes on is followed again.
	if err := syscall.Kill(int(slow.SupervisorPid), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	h.eventually("it is adopted", func() bool { return h.mustGet("slow").SupervisorPid == slow.SupervisorPid })
	h.mustDelete("slow")
	h.mustDelete("other")
	h.nothingLeft()
}

// A stop that waits for a guest which does not answer gives way to a delete by
// force.
func TestDeleteInterruptsAStop(t *testing.T) {
	h := newHost(t).start()
	h.run(daemontest.Stubborn)
	stopped := h.beginStop(daemontest.Stubborn)
	h.mustDelete(daemontest.Stubborn)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	h.nothingLeft()
}

// So does the stop that a daemon finds unfinished.
func TestDeleteInterruptsAnUnfinishedStop(t *testing.T) {
	h := newHost(t).start()
	h.run(daemontest.Stubborn)
	stopped := h.beginStop(daemontest.Stubborn)
	h.kill()
	<-stopped
	h.start()
	h.mustDelete(daemontest.Stubborn)
	h.nothingLeft()
}

// beginStop returns when a stop is under way.
func (h *host) beginStop(ref string) <-chan error {
	h.t.Helper()
	stopped := make(chan error, 1)
	go func() { stopped <- h.stopVM(ref) }()
	h.eventually("it is stopping", func() bool { return h.mustGet(ref).State == "stopping" })
	return stopped
}
