package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"
)

func sleeper(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", "read x"}, args...)...)
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); cmd.Wait() })
	return cmd
}

func TestEndAndAlive(t *testing.T) {
	cmd := sleeper(t, "")
	pid := cmd.Process.Pid
	start, err := StartTime(pid)
	if err != nil || !Alive(pid, start) || Alive(pid, start+1) {
		t.Fatalf("start %d, %v", start, err)
	}
	if err := End(t.Context(), pid, start+1); err != nil || !Alive(pid, start) {
		t.Fatalf("another start time ended it: %v", err)
	}
	if err := End(t.Context(), pid, start); err != nil || Alive(pid, start) {
		t.Fatalf("still there: %v", err)
	}
	cmd.Wait()
	if err := End(t.Context(), pid, start); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
	if _, err := Open(-1); !errors.Is(err, ErrGone) {
		t.Errorf("%v", err)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	h, err := Open(sleeper(t, "").Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := h.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestWorking(t *testing.T) {
	root := t.TempDir()
	os.Mkdir(root+"/vm", 0o700)
	byCwd := sleeper(t, root+"/vm")
	byArg := sleeper(t, "", "x", "file="+root+"/vm/disk,ro")
	sleeper(t, "")
	any := func(string) bool { return true }
	found := map[int]string{}
	for _, f := range Working(root, any) {
		found[f.PID] = f.Path
	}
	if found[byCwd.Process.Pid] != root+"/vm" || found[byArg.Process.Pid] != root+"/vm/disk" {
		t.Errorf("found %v; want %d and %d", found, byCwd.Process.Pid, byArg.Process.Pid)
	}
	if got := Working(root, func(string) bool { return false }); len(got) != 0 {
		t.Errorf("no program matches, and yet %v", got)
	}
}
