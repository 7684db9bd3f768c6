package process

import (
	"syscall"
	"time"
)

// CodeTimeOver is the exit code of a process whose time was over, as timeout(1) has it.
const CodeTimeOver = 124

// limitTime ends a process that was just started after that time; 0: never. It holds
// whatever becomes of the client.
func (p *Process) limitTime(limit time.Duration) {
	if limit <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended.IsZero() {
		p.limit = time.AfterFunc(limit, p.timeIsOver)
	}
}

// timeIsOver asks the process and its group to end, and then does not ask.
func (p *Process) timeIsOver() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended.IsZero() {
		return
	}
	p.exit.TimeOver = true
	// A stopped process ends only when it is continued.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		p.signal(signal)
		if p.tty != nil {
			_ = syscall.Kill(-p.pid, signal)
		}
	}
	p.limit = time.AfterFunc(p.manager.overtime, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.kill()
		// What the process started may be there without it. Its group's number may be
		// another's by now; its cgroup is nobody else's ever.
		p.group.kill()
	})
}

// endLimit is called when the process has ended and is not reaped yet: its number is
// still that of its group. The caller holds mu.
func (p *Process) endLimit() {
	if p.limit == nil || p.exit.TimeOver && p.group != nil {
		return // what is left of the group has the rest of the time
	}
	p.limit.Stop()
	if p.exit.TimeOver {
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
	}
}
