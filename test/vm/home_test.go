package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// longest is the bound on one command of a test; the first one may build the
// image. It is there to end what hangs, not to measure.
const longest = 8 * time.Minute

// home is one BANGER_HOME and the commands run in it.
type home struct {
	t   *testing.T
	dir string
	env []string
}

// result is how a command ended.
type result struct {
	code           int
	stdout, stderr string
}

// newHome makes a fresh home that shares kernel, image and downloads. When the
// test ends its daemon and VMs are ended, and nothing may be left of them.
func newHome(t *testing.T) *home {
	t.Helper()
	h := &home{t: t, dir: t.TempDir()}
	for _, sub := range shared {
		link := filepath.Join(h.dir, sub)
		must(t, os.MkdirAll(filepath.Dir(link), 0o700))
		must(t, os.Symlink(filepath.Join(cache, sub), link))
	}
	must(t, os.Chmod(filepath.Join(h.dir, "state"), 0o700))
	h.configure("[spares]\nmemory = \"0M\"\n")
	h.env = append(os.Environ(), "BANGER_HOME="+h.dir, "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+h.dir,
		"GORACE=atexit_sleep_ms=0") // or each program sleeps a second at its end
	t.Cleanup(h.close)
	return h
}

// configure writes config.toml. Spares are for the tests of them: they take time
// and memory from all others.
func (h *home) configure(text string) {
	h.t.Helper()
	must(h.t, os.MkdirAll(filepath.Join(h.dir, "config"), 0o700))
	must(h.t, os.WriteFile(filepath.Join(h.dir, "config", "config.toml"), []byte(text), 0o600))
}

func (h *home) close() {
	if h.t.Failed() {
		h.dump()
	}
	list := h.run("vm", "list", "--all", "-q")
	for _, id := range strings.Fields(list.stdout) {
		h.run("vm", "delete", "--force", id)
	}
	h.run("daemon", "stop")
	if left := h.processes(); len(left) > 0 {
		h.t.Errorf("processes left behind:\n%s", strings.Join(left, "\n"))
	}
	if entries, _ := os.ReadDir(filepath.Join(h.dir, "state", "vms")); len(entries) > 0 {
		h.t.Errorf("%d instance directories left behind", len(entries))
	}
}

// dump shows the logs of a test that failed.
func (h *home) dump() {
	logs, _ := filepath.Glob(filepath.Join(h.dir, "state", "*.log"))
	more, _ := filepath.Glob(filepath.Join(h.dir, "state", "vms", "*", "*.log"))
	for _, path := range append(logs, more...) {
		data, _ := os.ReadFile(path)
		h.t.Logf("%s:\n%s", path, data[max(0, len(data)-4000):])
	}
}

// processes lists those that name this home in their command line or that run
// in one of its instance directories.
func (h *home) processes() []string {
	var found []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if bytes.Contains(line, []byte(h.dir)) || strings.HasPrefix(cwd, filepath.Join(h.dir, "state")) {
			found = append(found, e.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// command prepares a banger command.
func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, "banger"), args...)
	cmd.Env, cmd.Dir = h.env, h.dir
	return cmd
}

// run runs a banger command with an empty stdin.
func (h *home) run(args ...string) result { return h.runWith(nil, args...) }

// runWith runs a banger command with a stdin.
func (h *home) runWith(stdin io.Reader, args ...string) result {
	h.t.Helper()
	cmd := h.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	return h.finish(cmd, &stdout, &stderr)
}

func (h *home) finish(cmd *exec.Cmd, stdout, stderr *bytes.Buffer) result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	must(h.t, cmd.Start())
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !stop() {
		h.t.Fatalf("%v did not end in %v\nstderr: %s", cmd.Args, longest, stderr)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%v: %v", cmd.Args, err)
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// must runs a command that has to succeed and returns its stdout, trimmed.
func (h *home) must(args ...string) string {
	h.t.Helper()
	r := h.run(args...)
	if r.code != 0 {
		h.t.Fatalf("banger %v: exit %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return strings.TrimSpace(r.stdout)
}

// vm is what show --json says, as far as the tests look.
type vm struct {
	ID            string   `json:"id"`
	Name          string   `json:"name"`
	State         string   `json:"state"`
	Reason        string   `json:"reason"`
	Driver        string   `json:"driver"`
	Accel         string   `json:"accel"`
	Confinement   []string `json:"confinement"`
	SupervisorPID int      `json:"supervisor_pid"`
	VMMPID        int      `json:"vmm_pid"`
	Dir           string   `json:"dir"`
}

func (h *home) show(ref string) vm {
	h.t.Helper()
	var v vm
	text := h.must("vm", "show", "--json", ref)
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		h.t.Fatalf("vm show --json: %v\n%s", err, text)
	}
	return v
}

// eventually waits until ok holds; it fails the test after a generous bound.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	end := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("it never came true that %s", what)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
