package qemu

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/layout"
)

// instanceOf is an instance whose QEMU is a shell that runs a script, once
// it is known.
func instanceOf(t *testing.T, freezable bool, script string) *instance {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read x; "+script)
	stdin, err := cmd.StdinPipe()
	must(t, err)
	defer stdin.Close()
	must(t, cmd.Start())
	handle, err := vmmproc.NewHandle(Name, cmd.Process.Pid)
	must(t, err)
	i := &instance{log: discard(), dir: layout.Instance(t.TempDir()), private: private{Freezable: freezable}}
	i.proc, err = vmmproc.Open(handle)
	must(t, err)
	t.Cleanup(func() { vmmproc.Destroy(i.proc) })
	return i
}

// A full host ends the making of a template, and the reason says so: QEMU itself
// dies of its memory, and stops for its disks.
func TestFullHost(t *testing.T) {
	for want, freezable := range map[string]bool{
		"no space is left on the host for its memory": true,
		"QEMU: killed by signal 7 (bus error)":        false,
	} {
		i := instanceOf(t, freezable, "kill -BUS $$")
		must(t, i.proc.Wait(t.Context()))
		if got := i.exit().Reason; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	i := instanceOf(t, true, "kill -BUS $$")
	must(t, i.proc.Wait(t.Context()))
	if err := giveUp(errEnded, i.proc, i.private, nil); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("at its start: %v", err)
	}
	full := []byte(`{"device":"","nospace":true,"operation":"write","action":"stop"}`)
	i = instanceOf(t, true, "exec sleep 60")
	i.event("BLOCK_IO_ERROR", []byte(`{"nospace":false}`))
	i.event("BLOCK_IO_ERROR", []byte(`[`))
	select {
	case <-i.proc.Done():
		t.Fatal("another error ended it")
	default:
	}
	i.event("BLOCK_IO_ERROR", full)
	must(t, i.proc.Wait(t.Context()))
	if got := i.exit().Reason; got != "no space is left on the host for its disks" {
		t.Error(got)
	}
	i = instanceOf(t, false, "exec sleep 60")
	i.event("BLOCK_IO_ERROR", full)
	if i.proc.Killed() {
		t.Error("a VM that somebody uses was ended")
	}
}

// The devices' state that does not fit leaves no file by its name.
func TestFullHostInFreeze(t *testing.T) {
	m := freezable(t)
	dir := layout.Instance(m.Dir)
	must(t, os.Symlink("/dev/full", layout.Temp(dir.DeviceState())))
	if err := writeFrozen(dir, m, programOf(t, m), []byte("state")); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v, want ENOSPC", err)
	}
	if _, err := os.Lstat(dir.DeviceState()); err == nil {
		t.Error("a file is there")
	}
}
