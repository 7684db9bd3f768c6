// Package guestexec is the client end of the exec protocol of api/stream: it
// runs one process in a guest, with its input, output, signals and exit code,
// and joins it again when the link to the guest breaks on the way.
//
// Bytes from the guest are not trusted: frames, windows and counts are checked,
// and memory is bounded whatever the guest sends.
package guestexec

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/trace"
)

// Size is a terminal's size in character cells.
type Size struct{ Rows, Cols int }

// Command is a process to run in a guest.
type Command struct {
	// Argv is the program and its arguments; empty with Shell.
	Argv []string
	// Builtin is a program of the guest's agent, which Argv are the arguments of;
	// empty: Argv is a command.
	Builtin string
	// Env holds K=V, added to the environment of a login.
	Env []string
	// Dir is the working directory; empty: the user's home.
	Dir string
	// User is a name or number, optionally user:group; empty: root.
	User string
	// TTY gives the process a terminal of Size. Its output is then all Stdout.
	TTY  bool
	Size Size
	// Shell runs the user's login shell.
	Shell bool

	// Stdin is the process's input; nil: end-of-file at once. If it has a
	// method Interrupt(), that is called when the process has ended and must
	// make a Read in progress, and all later ones, return; Run then waits for
	// that. A Read of any other reader that is in progress is left behind.
	Stdin io.Reader
	// Stdout and Stderr take the output; both are set. A slow writer slows the
	// process.
	Stdout, Stderr io.Writer
	// Resize and Signals, if not nil, carry what happens while it runs.
	Resize  <-chan Size
	Signals <-chan syscall.Signal
	// OnStart, if not nil, is called once, when the process runs.
	OnStart func()
	// Rejoin is how long a broken link is tried again; 0: 30 s, which is how
	// long the agent keeps a process that nobody is attached to.
	Rejoin time.Duration
	// TimeLimit is how long the process may run; 0: as long as it likes. The agent ends
	// it then, with SIGTERM and 5 s later SIGKILL. Run waits for that 30 s at most; the
	// time in which the guest is paused does not count.
	TimeLimit time.Duration
}

// Exit is how a process ended: Code is its exit code, or 128+Signal.
type Exit struct {
	Code, Signal int
	// TimeOver: it was ended because its TimeLimit was over; Code is CodeTimeOver.
	TimeOver bool
	// Unconfirmed: the guest has not said so in time, and was left.
	Unconfirmed bool
}

// Dial connects to the exec port of the guest. It is called again when the link
// breaks, and then waits for a successor of a crashed supervisor by itself. A
// *banger.Error with code not_found or wrong_state says that the VM is gone, so
// that trying again is no use; stream.ErrPaused that the guest stands still, and the
// time of Rejoin with it.
type Dial func(ctx context.Context) (net.Conn, error)

// StartError is what the agent says of a process that never ran, or is gone.
type StartError struct {
	// Code is one of "not_found", "not_executable", "no_cwd", "no_user",
	// "invalid", "gone", "limit", "internal".
	Code string
	// Message comes from the guest: escape it before it is shown.
	Message string
}

// Error returns the guest's message.
func (e *StartError) Error() string { return e.Message }

// OutputError is a failed write to Stdout or Stderr.
type OutputError struct{ Err error }

// Error says what failed.
func (e *OutputError) Error() string { return "write output: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

const (
	defaultRejoin = 30 * time.Second
	// startWithin bounds the wait for the agent's answer to Start.
	startWithin = 60 * time.Second
	// maxIdleJoins bounds joins in a row that moved no byte: a guest that
	// accepts and hangs up for ever.
	maxIdleJoins = 100
)

// run is one call of Run.
type run struct {
	cmd  Command
	id   [16]byte
	in   *input
	out  *output
	ctl  *control
	wake chan struct{} // to the connection's writer; holds one
	// joined is set once the agent has said Started.
	joined bool
	times  times
	clock  *clock
}

// Run runs cmd and returns how it ended. Its errors are *StartError (the
// process never ran), *OutputError, the context's own, or a *banger.Error.
// When ctx is cancelled the process is left, and gets SIGHUP.
func Run(ctx context.Context, dial Dial, cmd Command) (Exit, error) {
	r := &run{cmd: cmd, wake: make(chan struct{}, 1), times: times{recorder: trace.From(ctx)}}
	rand.Read(r.id[:])
	r.in = newInput(r.poke)
	r.out = newOutput(r.poke)
	r.ctl = &control{poke: r.poke}
	if r.cmd.Rejoin == 0 {
		r.cmd.Rejoin = defaultRejoin
	}
	return r.run(ctx, dial)
}

// poke tells the connection's writer that there is something to send.
func (r *run) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *run) run(ctx context.Context, dial Dial) (exit Exit, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var inputs, outputs sync.WaitGroup
	stopInput := r.startInput(&inputs, cancel)
	abandon := context.AfterFunc(ctx, func() { r.out.close(true) })
	defer abandon()
	var panicked error
	outputs.Go(func() {
		guard(func(err error) { panicked = err; cancel(err) }, func() { r.drain(cancel) })
	})
	var control sync.WaitGroup
	stop := make(chan struct{})
	control.Go(func() { r.ctl.collect(stop, r.cmd.Resize, r.cmd.Signals) })

	exit, err = r.timed(ctx, dial)
	ended := context.Cause(ctx)
	close(stop)
	control.Wait()
	stopInput()
	inputs.Wait()
	// What a VM said before it was gone is still written.
	r.out.close(ended != nil)
	outputs.Wait()
	switch failed := r.out.err(); {
	case panicked != nil:
		err = panicked
	case err != nil && ended != nil:
		err = ended
	case failed != nil && err == nil:
		err = &OutputError{failed}
	}
	return exit, err
}

// startInput starts the pump and returns what ends it.
func (r *run) startInput(wg *sync.WaitGroup, cancel context.CancelCauseFunc) (stop func()) {
	if r.cmd.Stdin == nil {
		return func() {}
	}
	interrupter, ok := r.cmd.Stdin.(interface{ Interrupt() })
	if !ok {
		// Nothing can end a Read of this reader, so nobody waits for it.
		go guard(cancel, func() { r.in.pump(r.cmd.Stdin) })
		return r.in.close
	}
	wg.Go(func() { guard(cancel, func() { r.in.pump(r.cmd.Stdin) }) })
	return func() {
		r.in.close()
		interrupter.Interrupt()
	}
}

// drain writes the output until it is closed; a failed write ends the run.
func (r *run) drain(cancel context.CancelCauseFunc) {
	if err := r.out.drain(r.cmd.Stdout, r.cmd.Stderr); err != nil {
		cancel(&OutputError{err})
	}
}

// guard turns a panic of a goroutine into the end of the run, so that the
// caller still restores the terminal.
func guard(cancel context.CancelCauseFunc, f func()) {
	defer func() {
		if p := recover(); p != nil {
			cancel(banger.Errorf(banger.CodeFailed, "internal error: %v", p))
		}
	}()
	f()
}

// timed is loop within the time that the process has.
func (r *run) timed(ctx context.Context, dial Dial) (Exit, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r.clock = newClock(r.cmd.TimeLimit, cancel)
	defer r.clock.stand()
	exit, err := r.loop(ctx, dial)
	if errors.Is(err, errTimeOver) {
		return Exit{Code: CodeTimeOver, TimeOver: true, Unconfirmed: true}, nil
	}
	return exit, err
}

// loop holds sessions until one of them ends the run.
func (r *run) loop(ctx context.Context, dial Dial) (Exit, error) {
	mark := trace.Begin(ctx, "exec: dial the guest")
	conn, err := dial(ctx)
	mark.End()
	if err != nil {
		return Exit{}, err
	}
	for idle := 0; ; {
		before := r.moved()
		exit, err := r.session(ctx, conn)
		conn.Close()
		var broken *brokenError
		if !errors.As(err, &broken) {
			return exit, err
		}
		if idle++; r.moved() != before {
			idle = 0
		}
		if idle > maxIdleJoins {
			return Exit{}, banger.Errorf(banger.CodeFailed, "the guest breaks every connection: %w", broken.err)
		}
		if conn, err = r.redial(ctx, dial, broken.err); err != nil {
			return Exit{}, err
		}
	}
}

// moved counts the bytes that have passed, in and out.
func (r *run) moved() uint64 { return r.in.acknowledged() + r.out.count() }

// redial connects again after the link broke. The time for that does not run while
// the guest is paused, as its own does not.
func (r *run) redial(ctx context.Context, dial Dial, cause error) (net.Conn, error) {
	counts := r.clock.stand()
	for {
		began := time.Now()
		conn, err := r.redialAwake(ctx, dial, cause)
		if errors.Is(err, stream.ErrPaused) {
			continue
		}
		if r.clock.spend(time.Since(began)); counts {
			r.clock.run()
		}
		return conn, err
	}
}

// redialAwake tries for as long as the agent keeps the process, or until it learns
// that the guest is paused.
func (r *run) redialAwake(ctx context.Context, dial Dial, cause error) (net.Conn, error) {
	limited, cancel := context.WithTimeout(ctx, r.cmd.Rejoin)
	defer cancel()
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		conn, err := dial(limited)
		if err == nil {
			return conn, nil
		}
		if code := bangerCode(err); code == banger.CodeNotFound || code == banger.CodeWrongState {
			return nil, err
		}
		if errors.Is(err, stream.ErrPaused) {
			return nil, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-limited.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, banger.Errorf(banger.CodeUnavailable,
				"the link to the guest broke (%v) and did not come back within %s: %w", cause, r.cmd.Rejoin, err)
		}
	}
}

// bangerCode is the code of a *banger.Error in err's chain, and of nothing else.
func bangerCode(err error) banger.Code {
	var e *banger.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// start is the first frame of a session.
func (r *run) start() *agentv1.ExecStart {
	c := r.cmd
	msg := &agentv1.ExecStart{
		Id: r.id[:], Argv: c.Argv, Env: c.Env, Cwd: c.Dir, User: c.User,
		Tty: c.TTY, Shell: c.Shell, Stdin: c.Stdin != nil,
		Received: r.out.count(), JoinOnly: r.joined, Trace: r.times.recorder != nil,
		Builtin: c.Builtin, TimeLimitMs: timeLimitMs(c.TimeLimit),
	}
	if size := r.ctl.size(c.Size); c.TTY {
		msg.Size = &agentv1.WindowSize{Rows: uint32(size.Rows), Cols: uint32(size.Cols)}
	}
	return msg
}
