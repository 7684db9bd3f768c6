package daemon

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/store"
)

// stopSlack is what a stop may take beyond the guest's own time.
const stopSlack = 15 * time.Second

// stop shuts a VM down. Once begun it goes on, also when the client leaves.
func (d *Daemon) stop(ctx context.Context, req *bangerv1.StopVMRequest) (*bangerv1.VM, error) {
	if req.TimeoutMs < 0 {
		return nil, banger.Errorf(banger.CodeUsage, "a timeout of %d ms is not possible", req.TimeoutMs)
	}
	m, err := d.resolve(req.Ref)
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	if now := m.look(); !now.following() {
		if now.rec.State == banger.StateCreating || now.rec.State == banger.StateDeleting {
			return nil, m.errorf(banger.CodeWrongState, "is %s", now.rec.State)
		}
		return m.proto(), nil
	}
	timeout := stopTimeout
	if req.TimeoutMs > 0 {
		timeout = time.Duration(req.TimeoutMs) * time.Millisecond
	}
	op, err := m.begin(ctx, store.KindStop, func(rec *store.VM) { rec.State = banger.StateStopping })
	if op == nil {
		return nil, err
	}
	if err := errors.Join(err, m.finishStop(op, timeout)); err != nil {
		return nil, err
	}
	return m.proto(), nil
}

// finishStop brings a stop that was begun to its end: by the guest, by its
// supervisor, or by ending the processes. Whoever deletes the VM by force waits for
// no guest: the VM is powered off at once then.
func (m *machine) finishStop(op *operation, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(m.traced(m.d.life), timeout+stopSlack)
	defer cancel()
	ctx, done := m.interruptible(ctx)
	defer done()
	err := op.step(ctx, stepStop)
	if err == nil {
		err = m.shutDown(ctx, timeout)
	}
	if err != nil && m.d.life.Err() == nil {
		m.d.log.Warn("a VM does not shut down; it is powered off", "vm", m.id, "error", err)
		off, cancel := detached(m.d.life)
		defer cancel()
		err = m.powerOff(off)
	}
	if err != nil {
		return m.errorf(banger.CodeFailed, "does not stop: %w", err).WithHint("banger vm delete -f %s", m.look().rec.Name)
	}
	if err := op.step(m.d.life, stepStopped); err != nil {
		m.d.log.Warn("a step of a stop is not saved", "vm", m.id, "error", err)
	}
	return op.end(m.d.life, func(rec *store.VM) {
		// A guest that was stopped on purpose is stopped, however it took it.
		rec.State = banger.StateStopped
	})
}

// shutDown asks the supervisor, and its successor if it crashes meanwhile.
func (m *machine) shutDown(ctx context.Context, timeout time.Duration) error {
	for {
		err := m.await(ctx, func(v view) bool { return v.client != nil }, func() {})
		if errors.Is(err, errDied) {
			return nil
		}
		if err != nil {
			return err
		}
		now := m.look()
		if now.client == nil {
			continue
		}
		_, err = now.client.Stop(ctx, connect.NewRequest(&vmv1.StopRequest{TimeoutMs: timeout.Milliseconds()}))
		if err != nil && ctx.Err() != nil {
			return err
		}
		if err != nil && connect.IsWireError(err) && connect.CodeOf(err) != connect.CodeUnavailable && m.look().client == now.client {
			return err
		}
		// The supervisor ends now, or is ending already.
		if err := m.awaitChange(ctx, now); err != nil {
			return err
		}
	}
}

// awaitChange waits until the supervisor of then is not connected any more.
func (m *machine) awaitChange(ctx context.Context, then view) error {
	err := m.await(ctx, func(v view) bool { return v.client != then.client }, func() {})
	if errors.Is(err, errDied) {
		return nil
	}
	return err
}
