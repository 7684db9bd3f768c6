package vm

import (
	"strings"
	"syscall"
	"testing"
)

// TestPause: the guest of a paused VM stands still, over the death of its daemon
// and of its supervisor, and a command that runs in it goes on when it is resumed.
func TestPause(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "still")
	before := h.show("still")
	cmd, _ := h.gated("still")
	h.must("vm", "pause", "still")
	r := h.run("vm", "exec", "still", "--", "true")
	if r.code != 125 || !strings.Contains(r.stderr, "banger vm resume still") {
		t.Errorf("exec in a paused VM: exit %d, %s", r.code, r.stderr)
	}
	must(t, syscall.Kill(h.daemonPID(), syscall.SIGKILL))
	if v := h.show("still"); v.State != "paused" || v.VMMPID != before.VMMPID {
		t.Errorf("after the daemon was killed: %+v", v)
	}
	must(t, syscall.Kill(before.SupervisorPID, syscall.SIGKILL))
	h.must("vm", "wait", "--for", "paused", "still")
	h.must("vm", "resume", "still")
	h.must("vm", "exec", "still", "--", "touch", "/root/go")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("the command that stood still ended with %d, want 9", code)
	}
	if v := h.show("still"); v.VMMPID != before.VMMPID {
		t.Errorf("another VMM: %+v", v)
	}
	h.must("vm", "pause", "still")
	h.must("vm", "stop", "still")
	if v := h.show("still"); v.State != "stopped" || v.Reason != "guest powered off" {
		t.Errorf("a paused VM was stopped: %+v", v)
	}
	h.must("vm", "start", "still")
	h.must("vm", "kill", "--signal", "TERM", "still")
	h.must("vm", "wait", "still")
	h.must("vm", "start", "still")
	h.must("vm", "kill", "still")
	if v := h.show("still"); v.State != "stopped" || v.Reason != "powered off" {
		t.Errorf("a VM was killed: %+v", v)
	}
	h.must("vm", "start", "still")
	h.must("vm", "pause", "still")
	h.must("vm", "delete", "-f", "still")
}
