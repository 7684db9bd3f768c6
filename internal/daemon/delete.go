package daemon

import (
	"context"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// errDeleted interrupts an operation on a VM that is to be deleted.
func errDeleted(name string) error {
	return banger.Errorf(banger.CodeInterrupted, "vm %q is being deleted", name)
}

// delete removes a VM. Once begun it goes on, also when the client leaves.
func (d *Daemon) delete(ctx context.Context, req *bangerv1.DeleteVMRequest) (string, error) {
	m, err := d.resolve(req.Ref)
	if err != nil {
		return "", err
	}
	if now := m.look(); !req.Force && now.rec.State == banger.StateCreating {
		return "", m.errorf(banger.CodeWrongState, "is being created").WithHint("banger vm delete -f %s", now.rec.Name)
	}
	if req.Force {
		m.interruptOperation(errDeleted(m.look().rec.Name))
	}
	if err := m.take(ctx); err != nil {
		if m.look().gone && req.Force {
			return m.id, nil // its creation was interrupted, and undone
		}
		return "", err
	}
	defer m.give()
	if now := m.look(); now.following() && !req.Force {
		return "", m.errorf(banger.CodeWrongState, "is %s", now.rec.State).
			WithHint("banger vm stop %s, or banger vm delete -f %s", now.rec.Name, now.rec.Name)
	}
	op, err := m.begin(ctx, store.KindDelete, func(rec *store.VM) { rec.State = banger.StateDeleting })
	if err != nil {
		return "", err
	}
	return m.id, m.finishDelete(op)
}

// finishDelete brings a delete that was begun to its end.
func (m *machine) finishDelete(op *operation) error {
	ctx, cancel := detached(m.traced(m.d.life))
	defer cancel()
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{stepStop, func() error { return m.powerOff(ctx) }},
		{stepRemove, func() error { return removeDir(m.dir) }},
		{stepRemoved, func() error { return m.remove(ctx) }},
	} {
		err := op.step(ctx, step.name)
		if err == nil {
			err = trace.Do(ctx, "delete: "+step.name, step.do)
		}
		if err != nil {
			return m.errorf(banger.CodeFailed, "is not deleted: %w", err).WithHint("banger vm delete -f %s", m.look().rec.Name)
		}
	}
	return nil
}
