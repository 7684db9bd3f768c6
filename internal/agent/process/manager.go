// Package process is the agent's process manager: it starts the commands of the
// guest, keeps their unread output, feeds their input, signals them and tells
// how they ended. Two doors use it: exec streams (ServeExec, the frames of
// api/stream) and the SSH server, through Start and the methods of Process.
//
// Every command has a session and process group of its own, and a cgroup if
// there is a root for them. It outlives a broken link, and does not outlive a
// client that left. The manager reaps its own children, so it must not share a
// process with another reaper.
package process

import (
	"errors"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/agent/account"
)

const (
	defaultGrace = 10 * time.Second
	defaultJoin  = 30 * time.Second
	defaultMost  = 512
	// defaultOvertime is also part of what api/client/guestexec waits for.
	defaultOvertime = 5 * time.Second
	// mostDrains bounds the streams that are read for nobody; more are closed.
	mostDrains = 256
)

// Options says how a Manager works. Zero values are the product's.
type Options struct {
	// CgroupRoot is a cgroup v2 directory below which each command gets a
	// cgroup; empty: no cgroups.
	CgroupRoot string
	// Log must be given.
	Log *slog.Logger
	// Users is where passwd, group and environment lie: /etc.
	Users account.Database
	// Grace is the time from SIGHUP to SIGKILL when a client left: 10 s.
	Grace time.Duration
	// Join is how long a process waits for its client after the link broke: 30 s.
	Join time.Duration
	// Quiet is how long a command's streams may be silent after its end while
	// something else holds them open: 500 ms.
	Quiet time.Duration
	// Overtime is the time from SIGTERM to SIGKILL when a command's time is over: 5 s.
	Overtime time.Duration
	// Most bounds the commands at one time: 512.
	Most int
}

// Manager holds the processes. Its methods may be called by any goroutine.
type Manager struct {
	log      *slog.Logger
	users    account.Database
	cgroups  *cgroups
	grace    time.Duration
	join     time.Duration
	quiet    time.Duration
	overtime time.Duration
	most     int
	wait     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	processes map[*Process]struct{}
	byID      map[string]*Process
	draining  map[*os.File]struct{}
}

// NewManager returns a manager without processes.
func NewManager(o Options) *Manager {
	m := &Manager{
		log: o.Log, users: o.Users, grace: o.Grace, join: o.Join, quiet: o.Quiet, overtime: o.Overtime, most: o.Most,
		cgroups:   &cgroups{root: o.CgroupRoot, log: o.Log},
		processes: map[*Process]struct{}{}, byID: map[string]*Process{},
		draining: map[*os.File]struct{}{},
	}
	if m.users == "" {
		m.users = "/etc"
	}
	if m.grace == 0 {
		m.grace = defaultGrace
	}
	if m.join == 0 {
		m.join = defaultJoin
	}
	if m.quiet == 0 {
		m.quiet = defaultQuiet
	}
	if m.overtime == 0 {
		m.overtime = defaultOvertime
	}
	if m.most == 0 {
		m.most = defaultMost
	}
	return m
}

// Users is where the manager finds the guest's users.
func (m *Manager) Users() account.Database { return m.users }

// Start runs a command that cannot be joined; the caller reads its output with
// Copy, and calls Leave when its client is gone. The error is a *StartError.
func (m *Manager) Start(spec Spec) (*Process, error) {
	p, err := m.register("")
	if err != nil {
		return nil, err
	}
	m.launch(p, &spec)
	if p.err != nil {
		m.remove(p)
		return nil, p.err
	}
	return p, nil
}

// register makes a process, not yet started.
func (m *Manager) register(id string) (*Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.registerLocked(id)
}

func (m *Manager) registerLocked(id string) (*Process, error) {
	switch {
	case m.closed:
		return nil, startErrorf(CodeGone, "the guest is shutting down")
	case len(m.processes) >= m.most:
		return nil, startErrorf(CodeLimit, "%d commands run in the guest already", m.most)
	}
	p := newProcess(m, id)
	m.processes[p] = struct{}{}
	if id != "" {
		m.byID[id] = p
	}
	return p, nil
}

func (m *Manager) remove(p *Process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.processes, p)
	if m.byID[p.id] == p {
		delete(m.byID, p.id)
	}
}

// goroutine runs f, for which Close waits. It is called by goroutines of the
// manager, or before a process is ready.
func (m *Manager) goroutine(f func()) {
	m.wait.Add(1)
	go func() {
		defer m.wait.Done()
		f()
	}()
}

// drains takes on a stream that is read for nobody.
func (m *Manager) drains(file *os.File) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || len(m.draining) >= mostDrains {
		return false
	}
	m.draining[file] = struct{}{}
	return true
}

func (m *Manager) drained(file *os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.draining, file)
}

// Close kills every command, ends their clients' connections, and waits.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	for file := range m.draining {
		_ = file.Close()
	}
	all := make([]*Process, 0, len(m.processes))
	for p := range m.processes {
		all = append(all, p)
	}
	m.mu.Unlock()
	for _, p := range all {
		<-p.ready
		p.abandon()
	}
	m.wait.Wait()
	m.cgroups.close()
}

// abandon is leave without the grace.
func (p *Process) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client != nil {
		p.client.kick()
	}
	p.leave()
	p.stopTimer()
	if p.limit != nil {
		p.limit.Stop()
	}
	p.kill()
}

// launch starts a registered process, or sets its err.
func (m *Manager) launch(p *Process, spec *Spec) {
	defer close(p.ready)
	plan, err := prepare(m.users, spec)
	if err == nil {
		err = p.spawn(plan, spec)
	}
	if err == nil {
		return
	}
	start, ok := errors.AsType[*StartError](err)
	if !ok {
		start = startErrorf(CodeInternal, "%v", err)
	}
	p.err = start
	p.finished = true
}

// spawn makes the streams and the process.
func (p *Process) spawn(plan *plan, spec *Spec) error {
	s, err := openStreams(plan.who, spec, p.manager.users)
	if err != nil {
		return err
	}
	defer s.closeChild()
	attr := syscall.SysProcAttr{Setsid: true, Setctty: spec.Terminal != nil, Ctty: 1}
	p.group = p.manager.cgroups.take()
	pidfd, err := p.fork(plan, s, attr)
	p.group.close()
	if err != nil {
		s.closeOurs()
		p.manager.cgroups.release(p.group)
		return err
	}
	p.tty, p.pipes, p.out = s.tty, s.outputs, newOutput(len(s.outputs))
	if s.input != nil {
		p.in = newInput(s.input, s.tty != nil)
	}
	p.limitTime(spec.TimeLimit)
	p.manager.goroutine(func() { p.watch(pidfd) })
	return nil
}

// fork starts the plan in the cgroup, or without if it takes no processes.
func (p *Process) fork(plan *plan, s *streams, attr syscall.SysProcAttr) (int, error) {
	if p.group != nil {
		attr.UseCgroupFD, attr.CgroupFD = true, p.group.fd
	}
	pid, pidfd, err := plan.start(s.descriptors(), attr)
	if p.group != nil && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP)) {
		p.manager.log.Warn("command runs outside its cgroup", "err", err)
		attr.UseCgroupFD = false
		pid, pidfd, err = plan.start(s.descriptors(), attr)
	}
	if err != nil {
		return -1, err
	}
	p.pid = pid
	return pidfd, nil
}
