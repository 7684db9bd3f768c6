package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/trace/tracerpc"
	"github.com/banger-dev/banger/internal/unixsock"
)

const (
	// maxStatus bounds one message of a supervisor in bytes.
	maxStatus = 1 << 20
	// A supervisor that lives without a socket is looked at again after
	// firstRecheck (it may be dying), and then less and less often.
	firstRecheck = 20 * time.Millisecond
	lastRecheck  = 2 * time.Second
	// endWait is how long a supervisor whose stream ended may take to end.
	endWait = 3 * time.Second
)

// spawn starts a supervisor for the VM in a session of its own. It is reaped
// here if it ends while the daemon lives; it does not end with the daemon.
func (m *machine) spawn(adopt bool) (*process.Handle, error) {
	args := []string{"run"}
	if adopt {
		if err := m.writePolicy(); err != nil {
			m.d.log.Error("a successor is started under an older policy", "vm", m.id, "error", err)
		}
		args = append(args, "--adopt")
	} else if err := os.Remove(m.dir.Exit()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	log, err := os.OpenFile(m.dir.SupervisorLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(m.d.opts.Supervisor, append(args, m.dir.Dir())...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(m.d.opts.Supervisor), err)
	}
	handle, err := process.Open(cmd.Process.Pid)
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	m.d.work.Go(func() { m.d.reap(cmd) })
	m.set(func() { m.proc = handle })
	return handle, nil
}

// reap collects a child that ends before the daemon does.
func (d *Daemon) reap(cmd *exec.Cmd) {
	handle, err := process.Open(cmd.Process.Pid)
	if err != nil {
		return
	}
	defer handle.Close()
	if handle.Wait(d.life) == nil {
		cmd.Wait()
	}
}

// supervisorClient speaks to the supervisor of dir over its socket.
func supervisorClient(dir layout.Instance) (vmv1connect.SupervisorClient, func()) {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsock.Dial(ctx, dir.Socket())
		},
		DisableCompression: true,
	}
	client := vmv1connect.NewSupervisorClient(&http.Client{Transport: transport}, "http://vm",
		connect.WithAcceptCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxStatus),
		connect.WithInterceptors(tracerpc.Client()))
	return client, transport.CloseIdleConnections
}

// startFollower begins to follow a supervisor: the one of proc, or with nil the
// one that holds the VM's lock. Only one follower lives at a time.
func (m *machine) startFollower(proc *process.Handle) {
	done := make(chan struct{})
	m.set(func() { m.followed, m.ending = done, false })
	m.d.work.Go(func() {
		// The last change wakes waiters after followed is closed.
		defer m.set(func() {})
		defer close(done)
		m.follow(m.d.life, proc)
	})
}

// follow attaches to the supervisor, and to each successor, until the VM has
// ended or ctx has.
func (m *machine) follow(ctx context.Context, proc *process.Handle) {
	for {
		if proc != nil || lockHeld(m.dir) {
			m.attach(ctx, proc)
		}
		if ctx.Err() != nil {
			return
		}
		next, over := m.judge(ctx)
		if over {
			return
		}
		proc = next
	}
}

// attach follows one supervisor until its stream has ended, or it is clear that
// none will come.
func (m *machine) attach(ctx context.Context, proc *process.Handle) {
	dir, err := watchDir(m.dir.Dir())
	if err != nil {
		m.d.log.Error("a VM's directory cannot be watched", "vm", m.id, "error", err)
		return
	}
	defer dir.close()
	ended, stop := endOf(ctx, proc)
	defer stop()
	pause := firstRecheck
	recheck := time.NewTimer(pause)
	defer recheck.Stop()
	answers := trace.Begin(m.traced(ctx), "supervisor: until its socket answers")
	for !m.watch(ctx, sync.OnceFunc(answers.End)) {
		select {
		case <-dir.changed:
		case <-ended:
			return
		case <-recheck.C:
			if proc == nil && !lockHeld(m.dir) {
				return
			}
			pause = min(2*pause, lastRecheck)
			recheck.Reset(pause)
		case <-ctx.Done():
			return
		}
	}
}

// endOf returns a channel that is closed when proc has ended; never, if it is
// nil. stop ends the wait.
func endOf(ctx context.Context, proc *process.Handle) (ended <-chan struct{}, stop func()) {
	done := make(chan struct{})
	if proc == nil {
		return done, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if proc.Wait(ctx) == nil {
			close(done)
		}
	}()
	return done, func() { cancel(); <-waited }
}

// watch takes the supervisor's status until its stream ends, and calls answers
// for each. It reports whether there was one.
func (m *machine) watch(ctx context.Context, answers func()) (reached bool) {
	client, done := supervisorClient(m.dir)
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Watch(ctx, connect.NewRequest(&vmv1.WatchRequest{}))
	if err != nil {
		return false
	}
	defer stream.Close()
	for stream.Receive() {
		reached = true
		answers()
		m.apply(ctx, client, stream.Msg())
	}
	m.set(func() { m.status, m.client = nil, nil })
	return reached
}

// apply takes one status of the supervisor.
func (m *machine) apply(ctx context.Context, client vmv1connect.SupervisorClient, now *vmv1.StatusResponse) {
	m.mu.Lock()
	known := m.proc != nil && m.proc.PID() == int(now.Pid)
	m.mu.Unlock()
	if !known {
		proc, err := process.Open(int(now.Pid))
		if err == nil {
			m.set(func() { m.proc = proc })
		}
	}
	before := m.look().rec
	after := before
	take(&after, now)
	if !sameRun(before, after) {
		if err := m.save(m.traced(ctx), func(rec *store.VM) { take(rec, now) }); err != nil && ctx.Err() == nil {
			m.d.log.Error("a VM's status is not saved", "vm", m.id, "error", err)
		}
	}
	// After the record: who sees the supervisor sees the state that goes with it.
	m.set(func() { m.status, m.client = now, client })
	if underPolicy(now) && now.PolicyRevision < m.look().rec.PolicyRevision {
		m.d.work.Go(func() { m.catchUpPolicy(client) })
	}
}

// take puts a supervisor's status into a record.
func take(rec *store.VM, now *vmv1.StatusResponse) {
	if now.State != "running" && now.State != "paused" && now.State != "stopping" {
		return
	}
	rec.Driver, rec.Accel, rec.Confinement = now.Driver, now.Accel, now.Confinement
	rec.Ready, rec.FailedUnits = banger.Grade(now.Ready), now.FailedUnits
	if now.Origin != "" { // a successor does not know
		rec.Origin, rec.TemplateError = now.Origin, now.TemplateError
	}
	if !now.Successor || rec.Started.IsZero() {
		rec.Started = time.UnixMilli(now.StartedUnixMs)
	}
	switch {
	case rec.State == banger.StateDeleting, rec.State == banger.StateStopping:
	case now.State == "stopping":
		rec.State = banger.StateStopping
	case now.State == "paused":
		rec.State, rec.Reason = banger.StatePaused, ""
	default:
		rec.State, rec.Reason = banger.StateRunning, ""
	}
}

// sameRun reports whether two records say the same of the present run.
func sameRun(a, b store.VM) bool {
	return a.State == b.State && a.Ready == b.Ready && a.Driver == b.Driver && a.Accel == b.Accel &&
		a.Origin == b.Origin && a.TemplateError == b.TemplateError &&
		a.Started.Equal(b.Started) && equalStrings(a.FailedUnits, b.FailedUnits) && equalStrings(a.Confinement, b.Confinement)
}

func equalStrings(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
