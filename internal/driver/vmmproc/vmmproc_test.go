package vmmproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/process"
)

// heldCommand makes this test binary a held process: it waits at its gate and
// exits with code 7, or 9 if the gate never opens.
const heldCommand = "test-held"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == heldCommand {
		if err := Await(); err != nil {
			os.Exit(9)
		}
		os.Exit(7)
	}
	os.Exit(m.Run())
}

func spawn(t *testing.T) (*Held, driver.Handle, *Process) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	held, err := Spawn(exec.Command(self, heldCommand))
	if err != nil {
		t.Fatal(err)
	}
	handle, err := NewHandle("test", held.PID)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := Open(handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Destroy(proc); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return held, handle, proc
}

func TestGate(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	held, _, proc := spawn(t)
	if err := held.Open(); err != nil {
		t.Fatal(err)
	}
	held.Drop()
	if err := proc.Wait(ctx); err != nil || proc.ExitCode() != 7 || !strings.Contains(proc.Reason(), "code 7") {
		t.Errorf("opened: %v, code %d, %s", err, proc.ExitCode(), proc.Reason())
	}
	held, _, proc = spawn(t)
	held.Drop()
	if err := proc.Wait(ctx); err != nil || proc.ExitCode() != 9 {
		t.Errorf("dropped: %v, code %d", err, proc.ExitCode())
	}
}

func TestReleaseAndOpenAgain(t *testing.T) {
	held, handle, proc := spawn(t)
	defer held.Drop()
	if err := proc.Release(); err != nil {
		t.Fatal(err)
	}
	if err := proc.Wait(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Wait after Release: %v", err)
	}
	if !process.Alive(handle.PID, handle.StartTime) {
		t.Fatal("Release ended it")
	}
	again, err := Open(handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := Destroy(again); err != nil || !strings.Contains(again.Reason(), "signal 9") || again.ExitCode() != -1 {
		t.Errorf("%v, %q, %d", err, again.Reason(), again.ExitCode())
	}
	if _, err := Open(handle); !errors.Is(err, driver.ErrGone) {
		t.Errorf("open what is gone: %v", err)
	}
}

func TestAbandon(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	held, err := Spawn(exec.Command(self, heldCommand))
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Abandon(); err != nil {
		t.Error(err)
	}
	if _, err := process.StartTime(held.PID); !errors.Is(err, process.ErrGone) {
		t.Errorf("it is left: %v", err)
	}
	if _, err := Spawn(exec.Command("/no/such/program")); err == nil {
		t.Error("no program, no error")
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var text strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&text, "line %d\n\n", i)
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Tail(path, 2); got != "line 1998; line 1999" {
		t.Errorf("%q", got)
	}
	if got := Tail(path+"x", 2); got != "" {
		t.Errorf("%q", got)
	}
}
