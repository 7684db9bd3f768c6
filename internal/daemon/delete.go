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
	keep := false // the turn, for what goes on beside
	defer func() {
		if !keep {
			m.give()
		}
	}()
	if now := m.look(); now.following() && !req.Force {
		return "", m.errorf(banger.CodeWrongState, "is %s", now.rec.State).
			WithHint("banger vm stop %s, or banger vm delete -f %s", now.rec.Name, now.rec.Name)
	}
	op, err := m.begin(ctx, store.KindDelete, func(rec *store.VM) {
		rec.State = banger.StateDeleting
		if req.Background {
			rec.Name = rec.ID // another may have it now
		}
	})
	if err != nil {
		return "", err
	}
	if !req.Background {
		return m.id, m.finishDelete(op)
	}
	d.finishUnseen(m, op)
	keep = true
	return m.id, nil
}

// finishUnseen finishes a delete beside everything else. The VM is in no list from
// now on; one that cannot be deleted is there again.
func (d *Daemon) finishUnseen(m *machine, op *operation) {
	d.mu.Lock()
	delete(d.vms, m.id)
	d.mu.Unlock()
	d.work.Go(func() {
		defer m.give()
		if err := m.finishDelete(op); err != nil {
			d.log.Error("a VM is not deleted", "vm", m.id, "error", err)
			d.mu.Lock()
			d.vms[m.id] = m
			d.mu.Unlock()
		}
	})
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
