package daemon

import (
	"context"
	"errors"
	"os"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// finishStart is the second half of create and start: it starts the supervisor
// and waits for the guest. The machine's files are in place.
func (m *machine) finishStart(ctx context.Context, op *operation, w wish, r *reporter) error {
	if err := m.launch(ctx, op); err != nil {
		return op.takeBack(err)
	}
	waiting, err := m.awaitReady(ctx, w, r)
	if errors.Is(err, errDied) || errors.Is(err, errNotReady) && w.timeout >= readyTimeout {
		m.d.templates.failed(m, op.first)
	}
	if err == nil {
		err = m.growFirst(ctx, op.first)
	}
	if err == nil {
		err = op.step(ctx, stepReady)
	}
	switch {
	case errors.Is(err, errNotReady):
		return m.keep(op, m.notReady(w, waiting))
	case errors.Is(err, errDied) && m.ranNothing() && op.rec.Kind == store.KindCreate:
		return op.takeBack(m.neverRan())
	case errors.Is(err, errDied):
		return m.keep(op, m.died(waiting))
	case err != nil:
		return op.takeBack(err)
	}
	if err := op.end(ctx, unchanged); err != nil {
		return op.takeBack(err)
	}
	m.d.templates.ready(m, op.first)
	m.askSpans(ctx)
	return r.vm(m.proto())
}

// growFirst gives a VM from a template whose disks are smaller those that it asked
// for.
func (m *machine) growFirst(ctx context.Context, f *firstRun) error {
	if f == nil || f.template == "" || f.grow == (growth{}) {
		return nil
	}
	if err := m.askSupervisor(ctx, f.grow.ask); err != nil {
		return m.errorf(banger.CodeOf(err), "has smaller disks than it was to have: %w", err).
			WithHint("the same command with --cold")
	}
	return nil
}

// launch starts the supervisor and its follower.
func (m *machine) launch(ctx context.Context, op *operation) error {
	if err := op.step(ctx, stepSpawn); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	m.set(func() { m.crashes = nil })
	mark := trace.Begin(ctx, "supervisor: fork and exec")
	proc, err := m.spawn(false)
	mark.End()
	if err != nil {
		return err
	}
	m.startFollower(proc)
	return op.step(ctx, stepSpawned)
}

// keep ends the operation and leaves the VM as it is, for inspection: also an
// ephemeral one.
func (m *machine) keep(op *operation, cause error) error {
	if err := op.end(m.d.life, func(rec *store.VM) { rec.Ephemeral = false }); err != nil {
		m.d.log.Error("a VM that failed to start is not saved", "vm", m.id, "error", err)
	}
	return cause
}

// takeBack undoes the operation: a create entirely, a start to a stopped VM.
func (o *operation) takeBack(cause error) error {
	if o.rec.Kind == store.KindCreate {
		return o.undo(cause)
	}
	ctx, cancel := detached(o.m.d.life)
	defer cancel()
	if err := o.m.powerOff(ctx); err != nil {
		o.m.d.log.Error("a start is not taken back", "vm", o.m.id, "error", err)
		return cause
	}
	if err := o.end(ctx, unchanged); err != nil {
		o.m.d.log.Error("a start that was taken back is not saved", "vm", o.m.id, "error", err)
	}
	return cause
}

// ranNothing reports whether the guest of the last run never had a chance: its
// supervisor said at once that the VMM does not start.
func (m *machine) ranNothing() bool {
	_, said := readExit(m.dir)
	info, err := os.Stat(m.dir.Console())
	return said && (err != nil || info.Size() == 0)
}

// neverRan is the error for a new VM whose VMM did not start.
func (m *machine) neverRan() error {
	err := m.errorf(banger.CodeUnavailable, "cannot be started: %s", m.look().rec.Reason).WithHint("banger doctor")
	return m.explained(err)
}

// start runs a VM that is stopped or created.
func (d *Daemon) start(ctx context.Context, req *bangerv1.StartVMRequest, r *reporter) error {
	w, err := newWish(req.WaitFor, req.TimeoutMs)
	if err != nil {
		return err
	}
	m, err := d.resolve(req.Ref)
	if err != nil {
		return err
	}
	if err := m.take(ctx); err != nil {
		return err
	}
	defer m.give()
	work, done := m.interruptible(ctx)
	defer done()
	now := m.settled(work)
	if now.following() && now.rec.State == banger.StatePaused {
		return m.isPaused()
	}
	if now.following() {
		return m.alreadyRuns(work, w, r)
	}
	if s := now.rec.State; s != banger.StateStopped && s != banger.StateCreated && s != banger.StateError {
		return m.errorf(banger.CodeWrongState, "is %s", s)
	}
	first, err := m.refreshSpec(work, r)
	if err != nil {
		return err
	}
	op, err := m.begin(work, store.KindStart, func(rec *store.VM) { rec.Reason = "" })
	if op == nil {
		return err
	}
	if err != nil {
		return op.takeBack(err)
	}
	op.first = first
	return m.finishStart(work, op, w, r)
}

// settleWait bounds the wait for a follower whose run is over.
const settleWait = 5 * time.Second

// settled looks at a VM once no run is about to end: between the record of a
// run's end, which anybody may see and act on, and the end of its follower
// there is a moment in which it would seem to run already. The caller has the
// turn.
func (m *machine) settled(ctx context.Context) view {
	now := m.look()
	over := now.rec.State == banger.StateStopped || now.rec.State == banger.StateError
	if !now.following() || !over || lockHeld(m.dir) {
		return now
	}
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	select {
	case <-now.followed:
	case <-ctx.Done():
	}
	return m.look()
}

// alreadyRuns waits for a VM that somebody else has started.
func (m *machine) alreadyRuns(ctx context.Context, w wish, r *reporter) error {
	if err := r.spec(m.proto()); err != nil {
		return err
	}
	switch waiting, err := m.awaitReady(ctx, w, r); {
	case errors.Is(err, errNotReady):
		return m.notReady(w, waiting)
	case errors.Is(err, errDied):
		return m.died(waiting)
	case err != nil:
		return err
	}
	return r.vm(m.proto())
}

// refreshSpec writes the spec anew: the config, the agent's build, and what can
// run VMs may have changed since the last run. The base image stays the one
// that the overlay was made on. A VM that has never run may get a template's
// disks for its own.
func (m *machine) refreshSpec(ctx context.Context, r *reporter) (*firstRun, error) {
	old, err := readSpec(m.dir)
	if err != nil {
		return nil, m.errorf(banger.CodeFailed, "cannot be started: its directory is not whole: %w", err).
			WithHint("banger vm delete %s", m.look().rec.Name)
	}
	if _, err := os.Stat(old.BaseDisk); err != nil {
		return nil, m.errorf(banger.CodeFailed, "cannot be started: its base image %s is gone", old.BaseDisk).
			WithHint("banger image list")
	}
	if err := checkFree(m.look().rec.Publish); err != nil {
		return nil, m.errorf(banger.CodeOf(err), "cannot be started: %w", err)
	}
	m.settleAddress()
	rec := m.look().rec
	kernel, err := m.d.decideAccel(ctx, &rec, r)
	if err != nil {
		return nil, err
	}
	m.set(func() { m.rec.Driver, m.rec.Accel = rec.Driver, rec.Accel })
	if err := r.spec(m.proto()); err != nil {
		return nil, err
	}
	if kernel, err = m.d.ensureKernel(ctx, kernel, rec.Kernel, r); err != nil {
		return nil, err
	}
	p := parts{base: old.BaseDisk, vmlinux: kernel.Vmlinux, initrd: kernel.Initrd, accel: rec.Accel}
	first, err := m.firstDisks(ctx, rec, *kernel)
	if err != nil {
		return nil, m.diskError(err)
	}
	if first != nil {
		p.template, p.templateError = first.template, first.problem
	}
	spec, err := m.d.spec(rec, p)
	if err != nil {
		return nil, err
	}
	return first, writeSpec(m.dir, spec, m.look().rec.Ephemeral)
}

// firstDisks gives a VM that was created and has never run the disks of a
// template, if there is one. nil says that this is no first run, or none that a
// template could be used for.
func (m *machine) firstDisks(ctx context.Context, rec store.VM, kernel Kernel) (*firstRun, error) {
	if rec.State != banger.StateCreated {
		return nil, nil
	}
	if err := os.RemoveAll(m.dir.NewDisks().Dir()); err != nil { // of a start that was killed
		return nil, err
	}
	// An image that has been replaced meanwhile is not the one of the record.
	if digest, err := m.d.localDigest(rec.Image); err != nil || digest != rec.ImageDigest {
		return nil, err
	}
	first := m.d.templates.first(ctx, rec, Image{Name: rec.Image, ID: rec.ImageDigest, Base: m.d.opts.Home.Image(rec.Image).Base()}, kernel)
	if first == nil {
		return nil, nil
	}
	defer m.d.spares.look()
	m.d.spares.noted(first)
	return first, m.d.templates.refork(ctx, first, m.dir)
}
