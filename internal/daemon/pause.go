package daemon

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/store"
)

// pauseTime bounds a pause or its end: a supervisor gives its VMM a minute.
const pauseTime = 75 * time.Second

// stillness is one of the two: a pause or its end.
type stillness struct {
	kind store.Kind
	// from and to are the states before and after.
	from, to banger.State
	// about is recorded before the supervisor is asked, done after.
	about, done string
	ask         func(context.Context, vmv1connect.SupervisorClient) error
}

func pausing() stillness {
	return stillness{store.KindPause, banger.StateRunning, banger.StatePaused, stepPause, stepPaused,
		func(ctx context.Context, c vmv1connect.SupervisorClient) error {
			_, err := c.Pause(ctx, connect.NewRequest(&vmv1.PauseRequest{}))
			return err
		}}
}

func resuming() stillness {
	return stillness{store.KindResume, banger.StatePaused, banger.StateRunning, stepResume, stepResumed,
		func(ctx context.Context, c vmv1connect.SupervisorClient) error {
			_, err := c.Resume(ctx, connect.NewRequest(&vmv1.ResumeRequest{}))
			return err
		}}
}

// change pauses a VM or lets it go on. What a daemon was killed in the middle of
// is as its supervisor has it: that, too, is one of the two.
func (d *Daemon) change(ctx context.Context, ref string, s stillness) (*bangerv1.VM, error) {
	m, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	switch now := m.settled(ctx); {
	case now.rec.State == s.to:
		return m.proto(), nil
	case !now.following() || now.rec.State != s.from:
		return nil, m.notRunning()
	}
	op, err := m.begin(ctx, s.kind, unchanged)
	if op == nil {
		return nil, err
	}
	work, cancel := context.WithTimeout(m.traced(d.life), pauseTime)
	defer cancel()
	work, done := m.interruptible(work)
	defer done()
	if err == nil {
		err = m.finishChange(work, op, s)
	}
	if ended := op.end(d.life, unchanged); err == nil {
		err = ended
	}
	if err != nil {
		return nil, m.unchangedStillness(s, err)
	}
	return m.proto(), nil
}

func (m *machine) finishChange(ctx context.Context, op *operation, s stillness) error {
	if err := op.step(ctx, s.about); err != nil {
		return err
	}
	if err := m.askSupervisor(ctx, s.ask); err != nil {
		return err
	}
	if err := m.await(ctx, func(v view) bool { return v.rec.State == s.to }, func() {}); err != nil {
		return err
	}
	return op.step(ctx, s.done)
}

// unchangedStillness names the VM and what was not done to it.
func (m *machine) unchangedStillness(s stillness, err error) error {
	if errors.Is(err, errDied) {
		return m.notRunning()
	}
	return m.errorf(banger.CodeOf(err), "does not %s: %w", s.kind, err).WithHint("banger vm logs %s", m.look().rec.Name)
}

// askSupervisor makes a call that may be repeated: if the supervisor crashes
// meanwhile, its successor is asked.
func (m *machine) askSupervisor(ctx context.Context, call func(context.Context, vmv1connect.SupervisorClient) error) error {
	for {
		if err := m.await(ctx, func(v view) bool { return v.client != nil }, func() {}); err != nil {
			return err
		}
		now := m.look()
		if now.client == nil {
			continue
		}
		err := call(ctx, now.client)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable:
			return supervisorError(err)
		}
		// Its supervisor, or its VMM, is gone, or is about to be.
		if err := m.awaitChange(ctx, now); err != nil {
			return err
		}
	}
}

// supervisorError is what a supervisor said, without the words of the transport.
func supervisorError(err error) error {
	var wire *connect.Error
	if errors.As(err, &wire) {
		return errors.New(wire.Message())
	}
	return err
}
