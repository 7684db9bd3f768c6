package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/process"
)

// TestFailedAdoptionEndsTheVMM: a successor that cannot do its work leaves no
// VMM that nobody looks after.
func TestFailedAdoptionEndsTheVMM(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	h, err := loadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	spec, err := os.ReadFile(dir.Spec())
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(spec), "{", `{"allowPrivate":["nowhere"],`, 1)
	if err := os.WriteFile(dir.Spec(), []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, dir, "--adopt").Wait()
	if process.Alive(h.PID, h.StartTime) {
		t.Error("the VMM lives")
	}
	if e := exitOf(t, dir); !e.Failed || !strings.Contains(e.Reason, "nowhere") {
		t.Errorf("exit %+v", e)
	}
}

// TestStaleHandle: a handle of another boot, or of another process with the same
// pid, is of no VMM: nothing is adopted and nothing is killed.
func TestStaleHandle(t *testing.T) {
	other := exec.Command("cat")
	hold, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer hold.Close()
	start, err := process.StartTime(other.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]driver.Handle{
		"another boot":    {Driver: "fake", PID: other.Process.Pid, StartTime: start, BootID: "an-earlier-one"},
		"another process": {Driver: "fake", PID: other.Process.Pid, StartTime: start - 1, BootID: process.BootID()},
		"no process":      {Driver: "fake", BootID: process.BootID()},
	} {
		t.Run(name, func(t *testing.T) {
			dir := instance(t)
			if err := saveHandle(dir, h); err != nil {
				t.Fatal(err)
			}
			launch(t, dir, "--adopt").Wait()
			if e := exitOf(t, dir); !e.Failed {
				t.Errorf("exit %+v", e)
			}
			if err := saveHandle(dir, h); err != nil {
				t.Fatal(err)
			}
			launch(t, dir)
			await(t, dir, ready)
			if !process.Alive(other.Process.Pid, start) {
				t.Error("another process was killed")
			}
		})
	}
}

// TestStartEndsAnEarlierVMM: a VMM that an earlier run left does not write on the
// disks beside the new one.
func TestStartEndsAnEarlierVMM(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	h, err := loadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	launch(t, dir)
	await(t, dir, ready)
	if process.Alive(h.PID, h.StartTime) {
		t.Error("two VMMs live")
	}
}

// TestTwoSupervisors: of two that race for one directory one ends, and the VM of
// the other notices nothing.
func TestTwoSupervisors(t *testing.T) {
	dir := instance(t)
	first := launch(t, dir)
	await(t, dir, ready)
	for _, args := range [][]string{nil, {"--adopt"}} {
		second := launch(t, dir, args...)
		if second.Wait(); second.ProcessState.ExitCode() == 0 {
			t.Error("a second supervisor ran")
		}
	}
	echo(t, dir)
	if now := await(t, dir, ready); int(now.Pid) != first.Process.Pid {
		t.Errorf("supervisor %d answers, not %d", now.Pid, first.Process.Pid)
	}
}

// TestStoppedVMM: a VMM that does nothing any more, its link full of what a
// client sent, is powered off in the time that a stop has.
func TestStoppedVMM(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	h, err := loadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		conn, answer := dial(t, dir, "CONNECT 1025")
		if answer != "OK" {
			t.Fatalf("answer %q", answer)
		}
		if err := syscall.Kill(h.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		fill(t, conn)
		if err := syscall.Kill(h.PID, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	syscall.Kill(h.PID, syscall.SIGSTOP)
	begun := time.Now()
	if _, err := client(dir).Stop(t.Context(), connect.NewRequest(&vmv1.StopRequest{TimeoutMs: 1000})); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > killTime {
		t.Errorf("stop took %v", took)
	}
	cmd.Wait()
	if e := exitOf(t, dir); e.Failed || process.Alive(h.PID, h.StartTime) {
		t.Errorf("exit %+v", e)
	}
}

// fill writes until nobody takes any more.
func fill(t *testing.T, conn net.Conn) {
	t.Helper()
	block := make([]byte, 1<<20)
	for range 64 {
		conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err := conn.Write(block); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("a VMM that is stopped takes 64 MiB")
}

// fussyListener fails a few times before it accepts.
type fussyListener struct {
	failures int
	conns    chan net.Conn
}

func (l *fussyListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	if conn, ok := <-l.conns; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l *fussyListener) Close() error   { return nil }
func (l *fussyListener) Addr() net.Addr { return &net.UnixAddr{} }

// TestDoorWaitsForDescriptors: a guest whose connections took every descriptor
// does not close the door for good.
func TestDoorWaitsForDescriptors(t *testing.T) {
	l := &fussyListener{failures: 3, conns: make(chan net.Conn, 1)}
	ours, theirs := net.Pipe()
	l.conns <- theirs
	d := &door{dial: nil, notify: func(int32) {}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		d.serve(context.Background(), l)
	}()
	go io.WriteString(ours, "nonsense\n")
	ours.SetReadDeadline(time.Now().Add(limit))
	if answer, err := io.ReadAll(ours); !strings.HasPrefix(string(answer), "ERR ") {
		t.Errorf("answer %q, %v", answer, err)
	}
	close(l.conns)
	<-served
}
