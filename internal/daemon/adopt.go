package daemon

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/leftover"
	"github.com/banger-dev/banger/internal/store"
)

// load brings the world and the records together after an earlier daemon,
// however that one ended: it finishes or undoes what was under way, adopts what
// runs, and removes what belongs to nothing. All of it at once, within one time
// budget; what takes longer, a supervisor that hangs or a process that does not end,
// goes on beside the first requests.
func (d *Daemon) load(ctx context.Context) error {
	recs, err := d.store.VMs(ctx)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		d.vms[rec.ID] = newMachine(d, rec)
	}
	byVM, err := d.unfinished(ctx)
	if err != nil {
		return err
	}
	d.recover(ctx)
	var settled sync.WaitGroup
	d.sweep(ctx, &settled)
	for _, m := range d.all() {
		op, pending := byVM[m.id]
		<-m.turn
		settled.Add(1)
		d.work.Go(func() {
			defer m.give()
			d.reconcile(m, op, pending, sync.OnceFunc(settled.Done))
		})
	}
	d.awaitSettled(&settled)
	if err := d.writeKnownHosts(); err != nil {
		d.log.Warn("known_hosts is not written", "error", err)
	}
	return nil
}

// unfinished are the operations that an earlier daemon did not end, by VM. One
// whose VM has no record has nothing left to undo, and is forgotten.
func (d *Daemon) unfinished(ctx context.Context) (map[string]store.Operation, error) {
	ops, err := d.store.Operations(ctx)
	if err != nil {
		return nil, err
	}
	byVM := map[string]store.Operation{}
	return byVM, d.store.Update(ctx, func(tx *store.Tx) error {
		for _, op := range ops {
			if d.vms[op.VMID] != nil {
				byVM[op.VMID] = op
			} else if err := tx.End(op); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *Daemon) awaitSettled(settled *sync.WaitGroup) {
	done := make(chan struct{})
	d.work.Go(func() { settled.Wait(); close(done) })
	budget := time.NewTimer(adoptBudget)
	defer budget.Stop()
	select {
	case <-done:
	case <-budget.C:
		d.log.Warn("not every VM is adopted yet, or not every leftover removed; the rest goes on beside")
	}
}

// reconcile settles one VM. Its turn is taken. settled is called when requests
// may see the VM as it is, at the latest when reconcile returns.
func (d *Daemon) reconcile(m *machine, op store.Operation, pending bool, settled func()) {
	defer settled()
	o := &operation{m: m, rec: op}
	switch {
	case pending && op.Kind == store.KindCreate:
		d.log.Info("an unfinished create is undone", "vm", m.id, "step", op.Step)
		o.undo(errors.New("the daemon was ended in the middle of it"))
		return
	case m.look().rec.State == banger.StateDeleting:
		d.log.Info("an unfinished delete is finished", "vm", m.id, "step", op.Step)
		if !pending {
			o = d.resume(m, store.KindDelete)
		}
		if err := m.finishDelete(o); err != nil {
			d.log.Error("an unfinished delete is not finished", "vm", m.id, "error", err)
		}
		return
	}
	d.adopt(m)
	settled()
	if pending {
		d.conclude(o)
	}
	d.expire(m)
}

// conclude ends an operation that an earlier daemon began on a VM that is adopted
// now, or does not run. A set, a stop and a kill are finished. A start, a pause and its end
// are what their supervisor made of them.
func (d *Daemon) conclude(o *operation) {
	m, kind := o.m, o.rec.Kind
	var err error
	switch {
	case kind == store.KindSet:
		err = m.finishSet(o)
	case !m.look().following():
		err = o.end(d.life, unchanged)
	case kind == store.KindStop:
		err = m.finishStop(o, stopTimeout)
	case kind == store.KindKill:
		err = m.finishKill(o)
	default:
		err = o.end(d.life, unchanged)
	}
	if err != nil {
		d.log.Error("an unfinished operation is not ended", "vm", m.id, "kind", kind, "step", o.rec.Step, "error", err)
		return
	}
	d.log.Info("an unfinished operation is ended", "vm", m.id, "kind", kind, "step", o.rec.Step)
}

// resume is an operation for a VM whose own was lost.
func (d *Daemon) resume(m *machine, kind store.Kind) *operation {
	op, err := m.begin(d.life, kind, unchanged)
	if op == nil {
		d.log.Error("an operation is not recorded", "vm", m.id, "error", err)
		return &operation{m: m, rec: store.Operation{VMID: m.id, Kind: kind}}
	}
	return op
}

// adopt follows the VM's supervisor, starts a successor if only its VMM lives,
// or records that it does not run. It waits for the supervisor's first word, but
// not for one that hangs: the VM's turn is taken, and whoever wants to stop or
// delete such a VM needs it.
func (d *Daemon) adopt(m *machine) {
	rec := m.look().rec
	if _, err := os.Stat(m.dir.Dir()); err != nil {
		d.missing(m)
		return
	}
	vmm, _ := readVMM(m.dir)
	if !rec.State.Active() && !vmm.alive() && !lockHeld(m.dir) {
		return
	}
	m.startFollower(nil)
	budget := time.NewTimer(adoptBudget)
	defer budget.Stop()
	now := m.look()
	for now.status == nil && now.following() {
		select {
		case <-now.changed:
		case <-budget.C:
			d.log.Warn("a supervisor does not answer yet; it is followed as soon as it does", "vm", m.id)
			return
		case <-d.life.Done():
			return
		}
		now = m.look()
	}
}

// missing is for a VM whose directory is gone: what ran it is ended, and the
// record says so.
func (d *Daemon) missing(m *machine) {
	ctx, cancel := detached(d.life)
	defer cancel()
	err := d.endProcesses(ctx, m.dir)
	err = errors.Join(err, m.save(ctx, func(rec *store.VM) {
		endRun(rec, exitRecord{Failed: true, Reason: "its directory " + m.dir.Dir() + " is gone, and its disks with it"})
	}))
	if err != nil {
		d.log.Error("a VM without a directory is not settled", "vm", m.id, "error", err)
	}
}

// sweep finds what belongs to no VM now, before there are new ones, and removes it
// beside; settled waits for that. What is left of templates and builds whose
// makers died is removed later.
func (d *Daemon) sweep(ctx context.Context, settled *sync.WaitGroup) {
	found, err := leftover.Find(ctx, d.opts.Home, d.store, d.ours)
	if err != nil {
		d.log.Error("leftovers are not looked for", "error", err)
	}
	settled.Add(1)
	d.work.Go(func() {
		d.clear(d.life, found)
		settled.Done()
		d.clear(d.life, leftover.Templates(d.opts.Home, d.ours))
		d.clear(d.life, leftover.Builds(d.opts.Home, d.log))
	})
}

// clear removes what was found, until ctx ends: the next daemon finds the rest.
func (d *Daemon) clear(ctx context.Context, found []leftover.Leftover) {
	for _, l := range found {
		if ctx.Err() != nil {
			return
		}
		d.log.Warn("a leftover is removed", "what", l.String())
		limit, cancel := detached(ctx)
		if err := l.Remove(limit); err != nil {
			d.log.Error("a leftover is not removed", "what", l.String(), "error", err)
		}
		cancel()
	}
}
