package vm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestExitCodes: the guest's code is banger's, and banger's own cannot be
// mistaken for it.
func TestExitCodes(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "codes")
	for _, c := range []struct {
		argv []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 7"}, 7},
		{[]string{"no-such-command"}, 127},
		{[]string{"/etc/passwd"}, 126},
		{[]string{"sh", "-c", "kill -9 $$"}, 137},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143},
	} {
		if r := h.run(append([]string{"vm", "exec", "codes", "--"}, c.argv...)...); r.code != c.want {
			t.Errorf("exec %v: exit %d, want %d\n%s", c.argv, r.code, c.want, r.stderr)
		}
	}
	r := h.run("vm", "exec", "codes", "--", "sh", "-c", "echo out; echo err >&2")
	if r.stdout != "out\n" || r.stderr != "err\n" {
		t.Errorf("streams are not apart: stdout %q, stderr %q", r.stdout, r.stderr)
	}
	r = h.run("vm", "exec", "-e", "GREETING=hello there", "-w", "/tmp", "-u", "nobody", "codes", "--", "sh", "-c", `echo "$GREETING"; pwd; id -un`)
	if r.stdout != "hello there\n/tmp\nnobody\n" {
		t.Errorf("env, workdir, user: %q %s", r.stdout, r.stderr)
	}
	if r := h.run("vm", "exec", "nobody-knows", "--", "true"); r.code != 125 {
		t.Errorf("exec in a VM that does not exist: exit %d, want 125", r.code)
	}
	if r := h.run("vm", "show", "nobody-knows"); r.code != 3 {
		t.Errorf("show of a VM that does not exist: exit %d, want 3", r.code)
	}
}

// TestRunRemoves: the main job in one line, and nothing is left of it.
func TestRunRemoves(t *testing.T) {
	h := newHome(t)
	r := h.run("vm", "run", "--rm", "--", "sh", "-c", "uname -s; pwd; exit 7")
	if r.code != 7 || r.stdout != "Linux\n/root\n" {
		t.Fatalf("exit %d, stdout %q\n%s", r.code, r.stdout, r.stderr)
	}
	if !strings.HasPrefix(firstSpec(r.stderr), "spec: ") || strings.Contains(r.stderr, "still running") {
		t.Errorf("stderr: %s", r.stderr)
	}
	if left := h.must("vm", "list", "-a", "-q"); left != "" {
		t.Errorf("left: %s", left)
	}
}

func firstSpec(stderr string) string {
	for line := range strings.Lines(stderr) {
		if strings.HasPrefix(line, "spec:") {
			return line
		}
	}
	return ""
}

// TestBytesComeBack: 100 MB through cat, byte for byte.
func TestBytesComeBack(t *testing.T) {
	h := newHome(t)
	data := make([]byte, 100<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	cmd := h.command("vm", "run", "--rm", "--", "cat")
	sum := sha256.New()
	var count counter
	cmd.Stdin = bytes.NewReader(data)
	cmd.Stdout = &tee{sum, &count}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if r := h.finish(cmd, new(bytes.Buffer), &stderr); r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, stderr.String())
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Errorf("%d bytes came back, of %d, and they differ", count, len(data))
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

type tee struct {
	a interface{ Write([]byte) (int, error) }
	b interface{ Write([]byte) (int, error) }
}

func (w *tee) Write(p []byte) (int, error) {
	w.b.Write(p)
	return w.a.Write(p)
}

// TestLife: create, stop, start, and what was written stays.
func TestLife(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "life")
	h.must("vm", "exec", "life", "--", "sh", "-c", "echo kept >/root/file; echo kept >/etc/file")
	h.must("vm", "stop", "life")
	if v := h.show("life"); v.State != "stopped" {
		t.Fatalf("state %q (%s)", v.State, v.Reason)
	}
	if r := h.run("vm", "exec", "life", "--", "true"); r.code != 125 {
		t.Errorf("exec in a stopped VM: exit %d", r.code)
	}
	h.must("vm", "start", "life")
	if got := h.must("vm", "exec", "life", "--", "cat", "/root/file", "/etc/file"); got != "kept\nkept" {
		t.Errorf("after a restart: %q", got)
	}
	if r := h.run("vm", "delete", "life"); r.code != 4 {
		t.Errorf("delete of a running VM: exit %d, want 4", r.code)
	}
	h.must("vm", "delete", "-f", "life")
}

// TestTimers: the timers of the agent are slack, those of commands are not.
func TestTimers(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "timers")
	agent := "cat /proc/$(pgrep -f '^@banger-agent')/timerslack_ns"
	if got := h.must("vm", "exec", "timers", "--", "sh", "-c", agent+"; cat /proc/self/timerslack_ns"); got != "5000000\n50000" {
		t.Errorf("agent's and a command's, ns: %q", got)
	}
}

// TestManyBoots: cold boots that all succeed beside two busy loops.
func TestManyBoots(t *testing.T) {
	h := newHome(t)
	for range 2 {
		stop := busyLoop(t)
		defer stop()
	}
	for i := range boots() {
		if r := h.run("vm", "run", "--rm", "--cold", "--timeout", "240s", "--", "true"); r.code != 0 {
			t.Fatalf("boot %d: exit %d\n%s", i, r.code, r.stderr)
		}
	}
}

// TestTwoAtOnce: two VMs with names of their own.
func TestTwoAtOnce(t *testing.T) {
	h := newHome(t)
	results := make(chan string, 2)
	for i := range 2 {
		name := fmt.Sprintf("pair-%d", i)
		go func() {
			r := h.run("vm", "run", "--rm", "--name", name, "--", "hostname")
			results <- strings.TrimSpace(r.stdout)
		}()
	}
	got := map[string]bool{<-results: true, <-results: true}
	if !got["pair-0"] || !got["pair-1"] {
		t.Errorf("hostnames: %v", got)
	}
}
