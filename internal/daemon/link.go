package daemon

import (
	"context"
	"errors"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// link returns where the guest of a running VM is reached, once its agent
// answers and its supervisor is there.
func (d *Daemon) link(ctx context.Context, req *bangerv1.LinkVMRequest) (*bangerv1.LinkVMResponse, error) {
	m, err := d.reach(ctx, req.Ref, time.Duration(max(req.TimeoutMs, 0))*time.Millisecond, req.WhilePaused)
	if err != nil {
		return nil, err
	}
	if m.look().rec.State == banger.StatePaused {
		return &bangerv1.LinkVMResponse{Vm: m.proto()}, nil
	}
	return &bangerv1.LinkVMResponse{Vm: m.proto(), LinkSocket: m.dir.Link()}, nil
}

// reach returns a running VM once its agent answers and its supervisor is there. With
// whilePaused it waits as long for a paused one to go on, and returns it if it does
// not.
func (d *Daemon) reach(ctx context.Context, ref string, timeout time.Duration, whilePaused bool) (*machine, error) {
	m, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	if now := m.look(); !now.following() {
		return nil, m.notRunning()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNotReady)
	defer cancel()
	paused := func(v view) bool { return v.rec.State == banger.StatePaused }
	err = m.await(ctx, func(v view) bool {
		if paused(v) {
			return !whilePaused
		}
		return v.status != nil && v.rec.Ready.Reached(banger.GradeAgent)
	}, func() {})
	switch still := paused(m.look()); {
	case still && whilePaused && errors.Is(err, errNotReady):
		return m, nil
	case still && err == nil:
		return nil, m.isPaused()
	case errors.Is(err, errDied):
		return nil, m.notRunning()
	case errors.Is(err, errNotReady):
		return nil, m.explained(m.errorf(banger.CodeTimeout, "does not answer: its agent is not reached after %s", timeout).
			WithHint("banger vm logs %s", m.look().rec.Name))
	}
	return m, err
}

// isPaused is the error for what a paused VM cannot do.
func (m *machine) isPaused() error {
	return m.errorf(banger.CodeWrongState, "is paused").WithHint("banger vm resume %s", m.look().rec.Name)
}

func (m *machine) notRunning() error {
	rec := m.look().rec
	if rec.State == banger.StatePaused {
		return m.isPaused()
	}
	if rec.Reason != "" {
		return m.errorf(banger.CodeWrongState, "is %s: %s", rec.State, rec.Reason).WithHint("banger vm start %s", rec.Name)
	}
	return m.errorf(banger.CodeWrongState, "is %s", rec.State).WithHint("banger vm start %s", rec.Name)
}
