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
	m, err := d.reach(ctx, req.Ref, time.Duration(max(req.TimeoutMs, 0))*time.Millisecond)
	if err != nil {
		return nil, err
	}
	return &bangerv1.LinkVMResponse{Vm: m.proto(), LinkSocket: m.dir.Link()}, nil
}

// reach returns a running VM once its agent answers and its supervisor is there.
func (d *Daemon) reach(ctx context.Context, ref string, timeout time.Duration) (*machine, error) {
	m, err := d.resolve(ref)
	if err != nil {
		return nil, err
	}
	if now := m.look(); !now.following() {
		return nil, m.notRunning()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errNotReady)
	defer cancel()
	err = m.await(ctx, func(v view) bool { return v.status != nil && v.rec.Ready.Reached(banger.GradeAgent) }, func() {})
	switch {
	case errors.Is(err, errDied):
		return nil, m.notRunning()
	case errors.Is(err, errNotReady):
		return nil, m.explained(m.errorf(banger.CodeTimeout, "does not answer: its agent is not reached after %s", timeout).
			WithHint("banger vm logs %s", m.look().rec.Name))
	}
	return m, err
}

func (m *machine) notRunning() error {
	rec := m.look().rec
	if rec.Reason != "" {
		return m.errorf(banger.CodeWrongState, "is %s: %s", rec.State, rec.Reason).WithHint("banger vm start %s", rec.Name)
	}
	return m.errorf(banger.CodeWrongState, "is %s", rec.State).WithHint("banger vm start %s", rec.Name)
}
