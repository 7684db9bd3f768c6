package process

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/api/stream"
)

// Exit is how a process ended.
type Exit struct {
	// Code is the exit code, or 128 + Signal.
	Code   int
	Signal syscall.Signal // 0 if none ended it
	// TimeOver: it was ended because its time was over; Code is CodeTimeOver.
	TimeOver bool
}

// Process is a command in the guest, from its start until nobody can ask for
// it any more.
//
//	started ─→ running ─→ ended ─→ finished (output complete) ─→ removed
//	              │          │         │
//	              ├─ link broken: waits for a join, output kept ─→ as left
//	              ├─ client left: SIGHUP, after a grace SIGKILL ─→ removed when finished
//	              └─ its time is over: SIGTERM, 5 s later SIGKILL
type Process struct {
	manager *Manager
	id      string        // empty: cannot be joined
	ready   chan struct{} // closed when started, or failed with err
	err     error
	pid     int
	tty     *os.File // the master; nil without
	pipes   []*os.File
	in      *input // nil without
	out     *output
	group   *cgroup
	over    chan struct{} // closed when ended
	done    chan struct{} // closed when finished

	mu       sync.Mutex
	client   *client // who is attached; nil while there is none
	ended    time.Time
	exit     Exit
	finished bool
	left     bool
	timer    *time.Timer // of a join or of a kill
	limit    *time.Timer // of the end of its time, then of the kill; nil without
}

func newProcess(m *Manager, id string) *Process {
	return &Process{
		manager: m, id: id, out: newOutput(0),
		ready: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{}),
	}
}

// PID is the process's number in the guest.
func (p *Process) PID() int { return p.pid }

// Write gives the process input; it waits while it has enough. After the
// process has closed its input, data is dropped.
func (p *Process) Write(data []byte) (int, error) {
	if p.in == nil {
		return len(data), nil
	}
	return len(data), p.in.write(data)
}

// CloseInput ends the process's input, after what was written.
func (p *Process) CloseInput() {
	if p.in != nil {
		_ = p.in.offer(nil, nil, true)
	}
}

// Copy writes the output to stdout and stderr, which may be the same, until it
// is complete or Leave was called; or until a write fails, whose error it
// returns. It is called once, for a process of Start.
func (p *Process) Copy(stdout, stderr io.Writer) error {
	c := newCursor()
	p.out.seek(c, 0)
	for {
		frames, ended := p.out.take(c)
		if frames == nil && ended {
			return nil
		}
		if frames == nil {
			<-c.wake
			continue
		}
		err := writeFrames(frames, stdout, stderr)
		p.out.done(c)
		if err != nil {
			return err
		}
		p.out.ack(c.next)
	}
}

func writeFrames(frames []byte, stdout, stderr io.Writer) error {
	for len(frames) > 0 {
		kind, payload, rest := splitFrame(frames)
		w := stdout
		if kind == stream.Stderr {
			w = stderr
		}
		if _, err := w.Write(payload); err != nil {
			return err
		}
		frames = rest
	}
	return nil
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait returns how the process ended, when its output is complete.
func (p *Process) Wait() Exit {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Signal sends a signal to the foreground process group of the terminal, or
// else to the process's group. After the end it does nothing.
func (p *Process) Signal(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signal(signal)
}

func (p *Process) signal(signal syscall.Signal) {
	if !p.ended.IsZero() || p.pid == 0 || signal <= 0 || signal > 64 {
		return
	}
	group := p.pid
	if p.tty != nil {
		if fg := foreground(p.tty); fg > 1 {
			group = fg
		}
	}
	_ = syscall.Kill(-group, signal)
}

// Resize tells the process the size of its terminal.
func (p *Process) Resize(rows, cols uint32) {
	if p.tty != nil {
		_ = resizeTerminal(p.tty, rows, cols)
	}
}

// Leave says that its client is gone for good: the process gets SIGHUP, and
// SIGKILL after a grace, and its output is dropped.
func (p *Process) Leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leave()
}

func (p *Process) leave() {
	if p.left {
		return
	}
	p.left = true
	p.out.drop()
	if p.in != nil {
		p.in.stop()
	}
	if p.finished {
		p.manager.remove(p)
		return
	}
	if !p.ended.IsZero() {
		return
	}
	// A stopped process meets its hangup only when it is continued.
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGCONT)
	if p.tty != nil {
		_ = syscall.Kill(-p.pid, syscall.SIGHUP)
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
	p.setTimer(p.manager.grace, p.kill)
}

// setTimer replaces the timer; f runs with the lock held unless it was stopped.
func (p *Process) setTimer(after time.Duration, f func()) {
	p.stopTimer()
	var timer *time.Timer
	timer = time.AfterFunc(after, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer == timer {
			f()
		}
	})
	p.timer = timer
}

func (p *Process) stopTimer() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// kill ends the process and all that it started. The caller holds mu.
func (p *Process) kill() {
	if p.ended.IsZero() && p.pid != 0 {
		p.group.kill()
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}

func (p *Process) endTime() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// watch follows a started process to its end.
func (p *Process) watch(pidfd int) {
	var pumps sync.WaitGroup
	for i, file := range p.pipes {
		kind := stream.Stdout
		if i == 1 {
			kind = stream.Stderr
		}
		pumps.Add(1)
		p.manager.goroutine(func() { p.follow(&pump{p: p, file: file, kind: kind}, pumps.Done) })
	}
	if p.in != nil {
		p.manager.goroutine(p.in.run)
	}
	p.awaitEnd(pidfd)
	if p.in != nil {
		p.in.stop()
	}
	for _, file := range p.pipes {
		_ = file.SetReadDeadline(time.Unix(1, 0)) // wakes the pump, which sees the end
	}
	pumps.Wait()
	p.finish() // the client waits for that, and for nothing below
	p.manager.cgroups.release(p.group)
	p.manager.cgroups.prepare()
}

// follow runs a pump, and reads on for nobody if something holds its stream.
func (p *Process) follow(u *pump, done func()) {
	defer func() { _ = u.file.Close() }()
	quiet := u.run()
	p.out.endStream()
	keep := quiet && p.manager.drains(u.file)
	done()
	switch {
	case keep:
		u.discard()
		p.manager.drained(u.file)
	case p.tty != nil:
		<-p.over // closing the master earlier would hang up on the process
	}
}

// awaitEnd waits for the process and reaps it. The number stays ours until it is
// reaped, and that happens under the lock, so no signal can hit another process.
func (p *Process) awaitEnd(pidfd int) {
	if err := waitPidfd(pidfd); err != nil {
		p.manager.log.Warn("waiting with a thread", "pid", p.pid, "err", err)
		waitThread(p.pid)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endLimit()
	var status syscall.WaitStatus
	_, err := syscall.Wait4(p.pid, &status, 0, nil)
	for errors.Is(err, syscall.EINTR) {
		_, err = syscall.Wait4(p.pid, &status, 0, nil)
	}
	p.ended = time.Now()
	close(p.over)
	if p.left {
		p.stopTimer() // of the kill; that of a join goes on
	}
	switch {
	case p.exit.TimeOver:
		p.exit.Code = CodeTimeOver
	case err != nil:
		p.manager.log.Error("exit status lost", "pid", p.pid, "err", err)
		p.exit = Exit{Code: 125}
	case status.Signaled():
		p.exit = Exit{Code: 128 + int(status.Signal()), Signal: status.Signal()}
	default:
		p.exit = Exit{Code: status.ExitStatus()}
	}
}

// waitPidfd waits, without a thread, until the process has ended.
func waitPidfd(pidfd int) error {
	if err := unix.SetNonblock(pidfd, true); err != nil {
		return err
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	defer func() { _ = file.Close() }()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(polled, 0)
		return n == 1 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// waitThread waits until the process has ended, and does not reap it.
func waitThread(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// finish says that the output is complete.
func (p *Process) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = true
	close(p.done)
	p.out.poke()
	if p.left || p.id == "" {
		p.manager.remove(p)
	}
}
