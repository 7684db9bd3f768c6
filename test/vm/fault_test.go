package vm

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// daemonPID is the pid of the home's running daemon.
func (h *home) daemonPID() int {
	h.t.Helper()
	out := h.must("daemon", "status", "--json")
	_, after, _ := strings.Cut(out, `"pid":`)
	digits := strings.TrimLeft(after, " ")
	end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	pid, err := strconv.Atoi(digits[:max(end, 0)])
	if err != nil {
		h.t.Fatalf("no pid in %s", out)
	}
	return pid
}

// gated starts an exec that says "ready", waits for a file to appear in the
// guest, and exits with code 9.
func (h *home) gated(name string) (cmd *exec.Cmd, out *bytes.Buffer) {
	h.t.Helper()
	cmd = h.command("vm", "exec", name, "--", "sh", "-c",
		"echo ready; while [ ! -e /root/go ]; do sleep 0.1; done; echo done; exit 9")
	out = new(bytes.Buffer)
	stdout, err := cmd.StdoutPipe()
	must(h.t, err)
	cmd.Stderr = os.Stderr
	must(h.t, cmd.Start())
	line := make([]byte, len("ready\n"))
	if _, err := stdout.Read(line); err != nil || string(line) != "ready\n" {
		h.t.Fatalf("the gated exec said %q: %v", line, err)
	}
	go out.ReadFrom(stdout)
	return cmd, out
}

// TestDaemonKilledInExec: the exec goes on and ends with its own code, and the
// next command finds the VM running.
func TestDaemonKilledInExec(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "calm")
	cmd, _ := h.gated("calm")
	must(t, syscall.Kill(h.daemonPID(), syscall.SIGKILL))
	if v := h.show("calm"); v.State != "running" {
		t.Errorf("after the daemon was killed: state %q", v.State)
	}
	h.must("vm", "exec", "calm", "--", "touch", "/root/go")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("the exec ended with %d, want 9", code)
	}
}

// TestSupervisorKilledInExec: a successor takes the VMM over, the guest's
// processes go on, and the exec that was running ends with its own code.
func TestSupervisorKilledInExec(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "heir")
	before := h.show("heir")
	boot := h.must("vm", "exec", "heir", "--", "cat", "/proc/sys/kernel/random/boot_id")
	cmd, _ := h.gated("heir")
	must(t, syscall.Kill(before.SupervisorPID, syscall.SIGKILL))
	if again := h.must("vm", "exec", "heir", "--", "cat", "/proc/sys/kernel/random/boot_id"); again != boot {
		t.Fatalf("another boot answers: %s, was %s", again, boot)
	}
	after := h.show("heir")
	if after.VMMPID != before.VMMPID || after.SupervisorPID == before.SupervisorPID || after.State != "running" {
		t.Errorf("before %+v, after %+v", before, after)
	}
	h.must("vm", "exec", "heir", "--", "touch", "/root/go")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("the exec ended with %d, want 9", code)
	}
	// The successor stops it cleanly.
	h.must("vm", "stop", "heir")
	if v := h.show("heir"); v.State != "stopped" {
		t.Errorf("state %q (%s)", v.State, v.Reason)
	}
}

// TestBothKilled: daemon and supervisor die together; the next command mends it.
func TestBothKilled(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "orphan")
	v := h.show("orphan")
	must(t, syscall.Kill(h.daemonPID(), syscall.SIGKILL))
	must(t, syscall.Kill(v.SupervisorPID, syscall.SIGKILL))
	if got := h.must("vm", "exec", "orphan", "--", "echo", "here"); got != "here" {
		t.Errorf("exec: %q", got)
	}
}

// TestVMMKilled: the VM is an error with words, nothing of it lives, and it
// starts again with its files.
func TestVMMKilled(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "crash")
	h.must("vm", "exec", "crash", "--", "sh", "-c", "echo kept >/root/file; sync")
	v := h.show("crash")
	must(t, syscall.Kill(v.VMMPID, syscall.SIGKILL))
	eventually(t, "the VM is in error", func() bool { return h.show("crash").State == "error" })
	if reason := h.show("crash").Reason; !strings.Contains(reason, "signal") && !strings.Contains(reason, "killed") {
		t.Errorf("reason %q", reason)
	}
	h.must("vm", "start", "crash")
	if got := h.must("vm", "exec", "crash", "--", "cat", "/root/file"); got != "kept" {
		t.Errorf("after the crash: %q", got)
	}
}

// TestFaultsInRun kills daemon, supervisor or VMM at every recorded step of
// create, start and delete of a VM that boots: afterwards nothing is left behind
// or the VM is whole.
func TestFaultsInRun(t *testing.T) {
	for _, fault := range []string{
		"supervisor.listening=kill-self", "supervisor.start=kill-self",
		"supervisor.launched=kill-self", "supervisor.launched=kill-peer",
		"supervisor.saved=kill-self", "supervisor.saved=kill-peer",
		"supervisor.console=kill-self", "supervisor.console=kill-peer", "supervisor.console=error",
		"supervisor.running=kill-self", "supervisor.running=kill-peer", "supervisor.running=error",
		"supervisor.reset=kill-self", "supervisor.reset=kill-peer",
		"supervisor.exit=kill-self", "supervisor.removed=kill-self",
		"create.disks=kill-self", "create.rename=kill-self", "create.spawned=kill-self",
		"create.ready=kill-self", "create.ready=kill-peer",
		"delete.stopped=kill-self", "delete.remove=kill-self",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			newHome(t).faulty(t, fault, "--cold")
		})
	}
}

// TestFaultsInFork: the same for the steps at which a VMM is there that loads a
// frozen guest, and those of a daemon that copies its disks.
func TestFaultsInFork(t *testing.T) {
	t.Parallel()
	h := newHome(t)
	h.ownTemplates(t) // a fork that fails has its template made anew
	h.must("image", "warm")
	for _, point := range []string{"launched", "saved", "console", "running", "reset"} {
		for _, whom := range []string{"self", "peer"} {
			fault := "supervisor." + point + "=kill-" + whom
			t.Run(fault, func(t *testing.T) { h.faulty(t, fault) })
		}
	}
	for _, point := range []string{"disks", "rename", "spawned", "ready"} {
		fault := "create." + point + "=kill-self"
		t.Run(fault, func(t *testing.T) { h.faulty(t, fault) })
	}
}

// faulty runs a VM under a fault and then, without it, finds the world in order.
func (h *home) faulty(t *testing.T, fault string, flags ...string) {
	h.must("daemon", "stop")
	cmd := h.command(append(append([]string{"vm", "run", "--rm", "--name", "hurt"}, flags...), "--", "true")...)
	cmd.Env = append(cmd.Env, "BANGER_FAULT="+fault)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	r := h.finish(cmd, &stdout, &stderr)
	t.Logf("%s: exit %d\n%s", fault, r.code, r.stderr)
	h.run("daemon", "stop")
	if r := h.run("vm", "list", "-a", "-q"); r.code != 0 {
		t.Fatalf("list: exit %d\n%s", r.code, r.stderr)
	}
	for _, ref := range strings.Fields(h.run("vm", "list", "-a", "-q").stdout) {
		h.must("vm", "delete", "-f", ref)
	}
	h.must("daemon", "stop")
	if left := h.processes(); len(left) > 0 {
		t.Errorf("processes left:\n%s", strings.Join(left, "\n"))
	}
	entries, err := os.ReadDir(h.dir + "/state/vms")
	if err != nil && !os.IsNotExist(err) || len(entries) > 0 {
		t.Errorf("left in vms: %v %v", entries, err)
	}
}
