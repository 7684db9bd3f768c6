package supervisor

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/fault"
)

// errPaused is what a client of link.sock is told while the guest stands still.
var errPaused = errors.New("the VM is paused")

// pause has the guest stand still until resume.
//
//	mark on disk → nobody speaks to the guest → its session ends → it stands
//	⇒ "paused"
//
// A successor that finds the mark keeps the guest where it is.
func (s *supervisor) pause(ctx context.Context) error {
	pauser, ok := s.vm.(driver.Pauser)
	if !ok {
		return banger.Errorf(banger.CodeUsage, "driver %s cannot pause a guest", s.driver.Name())
	}
	if err := s.floor.take(ctx); err != nil {
		return err
	}
	defer s.floor.give()
	switch now, _ := s.status.get(); now.State {
	case statePaused:
		return nil
	case stateRunning:
	default:
		return banger.Errorf(banger.CodeWrongState, "vm %q is %s", s.spec.Name, now.State)
	}
	err := s.standStill(ctx, pauser)
	if err == nil && s.status.begin(statePaused, stateRunning) {
		return nil
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), runTime)
	defer cancel()
	return errors.Join(err, s.goOn(undo))
}

func (s *supervisor) standStill(ctx context.Context, pauser driver.Pauser) error {
	if err := os.WriteFile(s.dir.Paused(), nil, 0o600); err != nil {
		return err
	}
	pid := s.vm.Info().PID
	if err := fault.Point("pause.marked", pid); err != nil {
		return err
	}
	s.floor.hold()
	if err := s.endSession(ctx); err != nil {
		return err
	}
	if err := pauser.Pause(ctx); err != nil {
		return err
	}
	return fault.Point("pause.still", pid)
}

// endTime bounds the wait for the guest to end a session. One that does not is
// paused as it is: its session breaks.
const endTime = 2 * time.Second

func (s *supervisor) endSession(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	err := s.vm.Link().End(bounded)
	if err == nil || ctx.Err() != nil {
		return err
	}
	s.log.Info("the guest has not ended its session before it was paused", "error", err)
	return nil
}

// stayPaused is for a successor: the guest of the VMM that it takes over is to
// stand still, wherever the crash was.
func (s *supervisor) stayPaused(ctx context.Context) (paused bool, err error) {
	if _, err := os.Stat(s.dir.Paused()); err != nil {
		return false, nil
	}
	pauser, ok := s.vm.(driver.Pauser)
	if !ok {
		return false, nil
	}
	s.floor.hold()
	ctx, cancel := context.WithTimeout(ctx, runTime)
	defer cancel()
	return true, pauser.Pause(ctx)
}

// resume lets a paused guest go on.
func (s *supervisor) resume(ctx context.Context) error {
	if err := s.floor.take(ctx); err != nil {
		return err
	}
	defer s.floor.give()
	switch now, _ := s.status.get(); now.State {
	case stateRunning:
		return nil
	case statePaused:
		return s.goOn(ctx)
	default:
		return banger.Errorf(banger.CodeWrongState, "vm %q is %s", s.spec.Name, now.State)
	}
}

// goOn ends a pause, also one that was only begun. The caller has the floor's turn.
func (s *supervisor) goOn(ctx context.Context) error {
	if err := remove(s.dir.Paused()); err != nil {
		return err
	}
	if err := fault.Point("resume.unmarked", s.vm.Info().PID); err != nil {
		return err
	}
	if err := s.letRun(ctx); err != nil {
		return err
	}
	if err := fault.Point("resume.running", s.vm.Info().PID); err != nil {
		return err
	}
	s.status.begin(stateRunning, statePaused)
	s.floor.release()
	return nil
}

// wake ends a pause, if there is one, and enters the state stopping.
func (s *supervisor) wake(ctx context.Context) error {
	if err := s.floor.take(ctx); err != nil {
		return err
	}
	defer s.floor.give()
	var err error
	if now, _ := s.status.get(); now.State == statePaused {
		err = s.goOn(ctx)
	}
	s.status.begin(stateStopping, stateRunning)
	return err
}

// signal has the agent send a signal to process 1; SIGTERM begins a shutdown.
func (s *supervisor) signal(ctx context.Context, number int32) error {
	if now, _ := s.status.get(); now.State != stateRunning {
		return banger.Errorf(banger.CodeWrongState, "vm %q is %s", s.spec.Name, now.State)
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	return s.call(ctx, func(client agentv1.AgentClient) (err error) {
		if number == sigTerm {
			_, err = client.Shutdown(ctx, &agentv1.ShutdownRequest{})
		} else {
			_, err = client.Signal(ctx, &agentv1.SignalRequest{Signal: number})
		}
		return err
	})
}

// sigTerm is the number of SIGTERM in a guest: all are Linux.
const sigTerm = 15

// floor says when the guest may be spoken to: not while it stands still, because
// a session that waits that long for an answer breaks. One follower at a time
// speaks to it.
type floor struct {
	turn chan struct{} // one token: who has it pauses or resumes

	mu      sync.Mutex
	held    bool
	changed chan struct{} // closed and replaced when held changes
	// interrupt ends the present follower's turn to speak, silent is closed when
	// it has ended; both nil when none speaks.
	interrupt context.CancelFunc
	silent    chan struct{}
}

func newFloor() *floor {
	f := &floor{turn: make(chan struct{}, 1), changed: make(chan struct{})}
	f.turn <- struct{}{}
	return f
}

// take waits for the right to pause or resume, give hands it back.
func (f *floor) take(ctx context.Context) error {
	select {
	case <-f.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *floor) give() { f.turn <- struct{}{} }

// hold has the follower fall silent, and returns when it has.
func (f *floor) hold() {
	f.mu.Lock()
	f.set(true)
	interrupt, silent := f.interrupt, f.silent
	f.mu.Unlock()
	if interrupt != nil {
		interrupt()
		<-silent
	}
}

// release lets it speak again.
func (f *floor) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(false)
}

// set changes held. The caller holds mu.
func (f *floor) set(held bool) {
	if f.held == held {
		return
	}
	f.held = held
	close(f.changed)
	f.changed = make(chan struct{})
}

// speak calls do whenever the guest may be spoken to, with a context that ends
// when that is over, until ctx ends. do returns soon after its context has ended.
func (f *floor) speak(ctx context.Context, do func(context.Context)) {
	for ctx.Err() == nil {
		f.mu.Lock()
		held, changed := f.held, f.changed
		var turn context.Context
		silent := make(chan struct{})
		if !held {
			turn, f.interrupt = context.WithCancel(ctx)
			f.silent = silent
		}
		f.mu.Unlock()
		if held {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		do(turn)
		f.mu.Lock()
		f.interrupt()
		f.interrupt, f.silent = nil, nil
		f.mu.Unlock()
		close(silent)
	}
}
