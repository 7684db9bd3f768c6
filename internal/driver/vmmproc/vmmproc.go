// Package vmmproc starts VMM processes and follows them: those of this process
// and those that a crashed one left.
//
// A new VMM waits at a gate until its handle is saved. If the process that
// started it ends first, the gate's pipe ends with it, and so does the VMM: at
// no instant is there one that a successor could not find.
package vmmproc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/process"
)

// gateFD is where a held process finds its gate: the first of ExtraFiles.
const gateFD = 3

// reapTime bounds the wait for a killed process to be gone.
const reapTime = 10 * time.Second

// Held is a process that waits at its gate.
type Held struct {
	PID  int
	gate *os.File
}

// Spawn starts cmd, whose program must call Await before anything else. The
// gate becomes its file 3 and the given ExtraFiles follow from 4. The caller
// calls Open or Abandon, and never cmd.Wait.
func Spawn(cmd *exec.Cmd) (*Held, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.ExtraFiles = append([]*os.File{r}, cmd.ExtraFiles...)
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	held := &Held{PID: cmd.Process.Pid, gate: w}
	// The process is followed by Process, which need not be its parent.
	return held, cmd.Process.Release()
}

// Open lets the process go on.
func (h *Held) Open() error {
	_, err := h.gate.Write([]byte{1})
	return errors.Join(err, h.gate.Close())
}

// Drop closes the gate for good: a process that still waits at it ends itself.
// After Open it does nothing.
func (h *Held) Drop() { h.gate.Close() }

// Await blocks until the gate opens. The error says that the starter is gone:
// the caller must end.
func Await() error {
	gate := os.NewFile(gateFD, "gate")
	defer gate.Close()
	if _, err := gate.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the process that started this one is gone: %w", err)
	}
	return nil
}

// Process is a VMM's process. All methods may be called from any goroutine.
type Process struct {
	pid    int
	child  bool
	handle *process.Handle
	stop   context.CancelFunc
	done   chan struct{}
	ended  chan struct{} // the follower has returned

	mu     sync.Mutex
	end    end
	killed bool
}

// NewHandle describes a process that was just spawned.
func NewHandle(name string, pid int) (driver.Handle, error) {
	start, err := process.StartTime(pid)
	if err != nil {
		return driver.Handle{}, err
	}
	return driver.Handle{Driver: name, PID: pid, StartTime: start, BootID: process.BootID()}, nil
}

// Open follows the process of a handle, or returns driver.ErrGone.
func Open(h driver.Handle) (*Process, error) {
	if h.PID <= 1 || h.BootID != process.BootID() {
		return nil, driver.ErrGone
	}
	handle, err := process.Open(h.PID)
	if errors.Is(err, process.ErrGone) {
		return nil, driver.ErrGone
	}
	if err != nil {
		return nil, err
	}
	// Compared while the handle is held: the pid cannot be another's by now.
	if !process.Alive(h.PID, h.StartTime) {
		handle.Close()
		return nil, driver.ErrGone
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Process{
		pid: h.PID, child: parentOf(h.PID) == os.Getpid(), handle: handle,
		stop: stop, done: make(chan struct{}), ended: make(chan struct{}),
	}
	go p.follow(ctx)
	return p, nil
}

// follow waits for the end of the process.
func (p *Process) follow(ctx context.Context) {
	defer close(p.ended)
	defer p.handle.Close()
	if err := p.handle.Wait(ctx); err != nil {
		return
	}
	how := end{code: -1, reason: "its process ended (how is not known: it was started by another supervisor)"}
	if p.child {
		how = reap(p.pid)
	}
	p.mu.Lock()
	p.end = how
	p.mu.Unlock()
	close(p.done)
}

// end is how a process ended; code is -1 if it is not known or a signal, and
// signal 0 if it is not known or none.
type end struct {
	code   int
	signal unix.Signal
	reason string
}

// reap collects the status of a child that has ended.
func reap(pid int) end {
	var ws unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return end{code: -1, reason: "its process ended"}
		case ws.Signaled():
			return end{code: -1, signal: ws.Signal(), reason: fmt.Sprintf("killed by signal %d (%s)", int(ws.Signal()), ws.Signal())}
		}
		return end{code: ws.ExitStatus(), reason: fmt.Sprintf("its process exited with code %d", ws.ExitStatus())}
	}
}

// PID is the process.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Reason is how the process ended, once it is gone.
func (p *Process) Reason() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end.reason
}

// ExitCode is the code that the process exited with, once it is gone; -1 if a
// signal ended it, or if it was another's child.
func (p *Process) ExitCode() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end.code
}

// Signal is what ended the process, once it is gone; 0 if it was none, or if it
// was another's child.
func (p *Process) Signal() unix.Signal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end.signal
}

// Killed reports whether Kill was called.
func (p *Process) Killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.killed
}

// Wait returns when the process is gone, or with the error of ctx, or with
// os.ErrClosed after Release.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.ended:
	}
	select {
	case <-p.done:
		return nil
	default:
		return os.ErrClosed
	}
}

// Kill ends the process at once and returns when it is gone.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Strike(); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("process %d was killed and is not gone (it may wait for a disk of the host): %w", p.pid, err)
	}
	return nil
}

// Strike is Kill without the wait.
func (p *Process) Strike() error {
	select {
	case <-p.done:
		return nil
	default:
	}
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	if err := p.handle.Kill(); err != nil {
		select {
		case <-p.ended:
		default:
			return fmt.Errorf("kill process %d: %w", p.pid, err)
		}
	}
	return nil
}

// Release stops following the process, which goes on.
func (p *Process) Release() error {
	p.stop()
	<-p.ended
	return nil
}

// Abandon ends a process that is still at its gate, and waits for its end.
func (h *Held) Abandon() error {
	err := errors.Join(h.gate.Close(), unix.Kill(h.PID, unix.SIGKILL))
	reap(h.PID)
	return err
}

// Destroy ends p whatever the state of the caller's context, and lets go of it.
func Destroy(p *Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), reapTime)
	defer cancel()
	return errors.Join(p.Kill(ctx), p.Release())
}
