package vm

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"syscall"
	"testing"
)

// TestGuestOutOfMemory: the command that takes it all is killed, the guest and
// its agent go on.
func TestGuestOutOfMemory(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "small", "--memory", "384M")
	r := h.run("vm", "exec", "small", "--", "python3", "-c", "x = bytearray(4 << 30); print(len(x))")
	if r.code == 0 || strings.Contains(r.stdout, "4294967296") {
		t.Errorf("4 GiB were had in a VM of 384 MiB: exit %d, %q", r.code, r.stdout)
	}
	r = h.run("vm", "exec", "small", "--", "python3", "-c", "x = []\nwhile True: x.append(bytearray(1 << 20))")
	if r.code != 137 && r.code != 1 {
		t.Errorf("a command that takes all memory: exit %d\n%s", r.code, r.stderr)
	}
	if got := h.must("vm", "exec", "small", "--", "echo", "alive"); got != "alive" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestGuestDiskFull: a full disk is ENOSPC in the guest and nothing else.
func TestGuestDiskFull(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "full", "--disk-size", "256M")
	r := h.run("vm", "exec", "full", "--", "sh", "-c", "head -c 1G /dev/zero >/root/big")
	if r.code == 0 || !strings.Contains(r.stderr, "No space left") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if got := h.must("vm", "exec", "full", "--", "sh", "-c", "rm /root/big; echo ok >/root/small; cat /root/small"); got != "ok" {
		t.Errorf("afterwards: %q", got)
	}
}

// TestInterruptedStart: Ctrl-C before the command has started undoes what was
// begun.
func TestInterruptedStart(t *testing.T) {
	h := newHome(t)
	cmd := h.command("vm", "run", "--name", "never", "--", "true")
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("it ended before it was interrupted: %v", err)
		}
		if strings.HasPrefix(line, "spec:") {
			break
		}
	}
	must(t, cmd.Process.Signal(syscall.SIGINT))
	rest, _ := io.ReadAll(lines)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit %d, want 130\n%s", code, rest)
	}
	eventually(t, "the VM is gone", func() bool { return h.must("vm", "list", "-a", "-q") == "" })
}

// TestClientKilled: a client that dies takes its ephemeral VM with it, and its
// command gets SIGHUP.
func TestClientKilled(t *testing.T) {
	h := newHome(t)
	cmd := h.command("vm", "run", "--rm", "--name", "lost", "--", "sh", "-c", "echo ready; sleep 1000")
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if line != "ready\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	eventually(t, "the VM is gone", func() bool { return h.must("vm", "list", "-a", "-q") == "" })
}

// TestCommandEndsWithItsClient: SIGHUP reaches a command whose client left; the
// VM stays.
func TestCommandEndsWithItsClient(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "stays")
	cmd := h.command("vm", "exec", "stays", "--", "sh", "-c", "trap 'echo hup >/root/hup; exit' HUP; echo ready; while :; do sleep 0.1; done")
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("said %q, %v", line, err)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	eventually(t, "the command got SIGHUP", func() bool {
		return h.run("vm", "exec", "stays", "--", "cat", "/root/hup").stdout == "hup\n"
	})
}

// TestReadinessTimeout: the error names what was awaited, the VM is kept, even
// with --rm.
func TestReadinessTimeout(t *testing.T) {
	h := newHome(t)
	r := h.run("vm", "run", "--rm", "--name", "slow", "--cold", "--timeout", "1s", "--", "true")
	if r.code != 125 || !strings.Contains(r.stderr, `vm "slow"`) || !strings.Contains(r.stderr, "banger vm logs slow") || !strings.Contains(r.stderr, "banger vm delete") {
		t.Errorf("exit %d\n%s", r.code, r.stderr)
	}
	if got := h.must("vm", "list", "-a"); !strings.Contains(got, "slow") {
		t.Errorf("the VM was not kept:\n%s", got)
	}
	if log := h.must("vm", "logs", "slow"); !bytes.Contains([]byte(log), []byte("banger boot")) {
		t.Errorf("logs: %q", log)
	}
}
