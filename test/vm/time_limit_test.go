package vm

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
)

// TestTimeLimit: a command is ended in time, whatever it does about it, and the time of
// a pause is no part of its own.
func TestTimeLimit(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "dev")
	const said = "took longer than 2s, and was ended; try: a longer --time-limit"
	const deaf = "trap '' TERM; while :; do sleep 1000; done"
	for script, least := range map[string]time.Duration{
		"exec sleep 1000":                  2 * time.Second,
		"(" + deaf + ") & exec sleep 1000": 2 * time.Second, // which goes later than its parent
		"(" + deaf + ") & " + deaf:         7 * time.Second,
	} {
		began := time.Now()
		r := h.run("vm", "exec", "--time-limit", "2s", "dev", "--", "sh", "-c", "echo half; "+script)
		took := time.Since(began)
		if r.code != 124 || r.stdout != "half\n" || !strings.Contains(r.stderr, said) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("%s: exit %d, %q, %q", script, r.code, r.stdout, r.stderr)
		}
		if took < least || took > least+20*time.Second {
			t.Errorf("%s: it took %s", script, took)
		}
	}
	eventually(t, "nothing of them is left in the guest", func() bool { return h.run("vm", "exec", "dev", "--", "pgrep", "-x", "sleep").code == 1 })
	if r := h.run("vm", "exec", "--time-limit", "1h", "dev", "--", "sh", "-c", "exit 7"); r.code != 7 || r.stderr != "" {
		t.Errorf("in time: exit %d, %s", r.code, r.stderr)
	}
	h.limitOverPause()
	if r := h.run("vm", "run", "--rm", "--name", "brief", "--time-limit", "2s", "--", "sleep", "1000"); r.code != 124 {
		t.Errorf("vm run: exit %d, %s", r.code, r.stderr)
	}
	eventually(t, "the VM of --rm is gone", func() bool {
		return h.run("vm", "show", "brief").code == 3
	})
}

// limitOverPause pauses the guest for longer than the time of a command in it.
func (h *home) limitOverPause() {
	h.t.Helper()
	cmd := h.command("vm", "exec", "--time-limit", "6s", "dev", "--", "sh", "-c", "echo begun; sleep 2")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	must(h.t, err)
	must(h.t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "begun\n" {
		h.t.Errorf("%q, %v", line, err)
	}
	h.must("vm", "pause", "dev")
	<-time.After(7 * time.Second)
	h.must("vm", "resume", "dev")
	if err := cmd.Wait(); err != nil {
		h.t.Errorf("a command that was paused: %v, %s", err, &stderr)
	}
}
