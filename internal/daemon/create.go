package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// create makes a VM and, unless the request says no, starts it.
//
//	plan → record → spec to the client → kernel, image → disks → directory
//	     → supervisor → ready
//
// An error before the guest runs, and a cancellation at any time, undoes
// everything; a guest that runs and does not become ready is kept.
func (d *Daemon) create(ctx context.Context, req *bangerv1.CreateVMRequest, r *reporter) error {
	w, err := newWish(req.WaitFor, req.TimeoutMs)
	if err != nil {
		return err
	}
	mark := trace.Begin(ctx, "plan")
	rec, err := d.plan(req)
	mark.End()
	if err != nil {
		return err
	}
	mark = trace.Begin(ctx, "choose the accelerator, find the kernel")
	kernel, err := d.decideAccel(ctx, &rec, r)
	mark.End()
	if err != nil {
		return err
	}
	defer d.spares.look()
	var unused *notClaimed
	if sp := d.spares.offer(ctx, rec, kernel, req.NoStart); sp != nil {
		err := d.createFromSpare(ctx, rec, sp, r)
		if !errors.As(err, &unused) {
			return err
		}
		d.log.Warn("a spare could not be used", "vm", sp.id, "error", err)
		rec.Name = unused.name
	}
	m, op, err := d.reserve(ctx, rec)
	if err != nil {
		return err
	}
	if unused != nil {
		m.set(func() { m.spareError = unused.Error() })
	}
	defer m.give()
	release := m.hold()
	defer release()
	work, done := m.interruptible(ctx)
	defer done()
	op.starts = !req.NoStart
	err = m.build(work, op, kernel, r)
	if err == nil && !req.NoStart {
		return m.finishStart(work, op, w, r)
	}
	if err != nil {
		return op.undo(err)
	}
	if err := op.end(ctx, func(rec *store.VM) { rec.State, rec.Accel, rec.Driver = banger.StateCreated, "", "" }); err != nil {
		return op.undo(err)
	}
	return r.vm(m.proto())
}

// decideAccel fills in what will run the VM. A KVM that ran only a tiny program
// may still fail an ordinary kernel, so that where it matters the kernel is
// fetched first. The kernel is returned if it is there.
func (d *Daemon) decideAccel(ctx context.Context, rec *store.VM, r *reporter) (*Kernel, error) {
	local, err := d.opts.Assets.KernelLocal(rec.Kernel)
	if err != nil {
		return nil, err
	}
	rec.Driver = "qemu"
	if !local {
		rec.Accel, err = d.accel(ctx, *rec, nil)
		if err != nil || rec.Accel != "kvm" {
			return nil, err
		}
	}
	kernel, err := d.opts.Assets.Kernel(ctx, rec.Kernel, r.progress)
	if err != nil {
		return nil, err
	}
	rec.Accel, err = d.accel(ctx, *rec, &kernel)
	return &kernel, err
}

// reserve puts the VM among the others and begins its creation; its turn is
// taken.
func (d *Daemon) reserve(ctx context.Context, rec store.VM) (*machine, *operation, error) {
	d.mu.Lock()
	if rec.Name == "" {
		rec.Name = d.freeName()
	} else if d.named(rec.Name) != nil {
		d.mu.Unlock()
		return nil, nil, banger.Errorf(banger.CodeWrongState, "vm %q already exists", rec.Name).
			WithHint("another --name, or banger vm delete %s", rec.Name)
	}
	rec.Address = d.freeAddress()
	m := newMachine(d, rec)
	<-m.turn
	d.vms[rec.ID] = m
	d.mu.Unlock()
	mark := trace.Begin(ctx, "make the VM's identity")
	err := identity(&rec)
	mark.End()
	var op *operation
	if err == nil {
		op, err = m.begin(ctx, store.KindCreate, func(r *store.VM) { r.HostKey = rec.HostKey })
	}
	if err == nil {
		d.ttl.look()
		return m, op, nil
	}
	if op != nil {
		err = op.undo(err)
	} else {
		d.forget(m)
	}
	m.give()
	return nil, nil, err
}

// freeName finds a random name that nobody has. The caller holds d.mu.
func (d *Daemon) freeName() string {
	for {
		if name := banger.RandomName(); d.named(name) == nil {
			return name
		}
		// Thousands of VMs exhaust the plain ones.
		if name := banger.RandomName() + "-" + banger.NewID()[:4]; d.named(name) == nil {
			return name
		}
	}
}

// build makes everything that the VM consists of, up to its directory.
func (m *machine) build(ctx context.Context, op *operation, kernel *Kernel, r *reporter) error {
	if err := r.spec(m.proto()); err != nil {
		return err
	}
	rec, assets := m.look().rec, m.d.opts.Assets
	kernel, err := m.d.ensureKernel(ctx, kernel, rec.Kernel, r)
	if err != nil {
		return err
	}
	mark := trace.Begin(ctx, "find the image")
	image, err := assets.Image(ctx, rec.Image, r.progress)
	mark.End()
	if err != nil {
		return err
	}
	done := r.begin("disks", "making the disks")
	err = m.save(ctx, func(rec *store.VM) { rec.ImageDigest = image.ID },
		func(tx *store.Tx) error { op.rec.Step = stepDisks; return tx.Step(op.rec) })
	if err != nil {
		return err
	}
	if err := op.point(stepDisks); err != nil {
		return err
	}
	if op.starts { // else the first start decides
		mark := trace.Begin(ctx, "find the template")
		op.first = m.d.templates.orSmaller(m.d.templates.first(ctx, m.look().rec, image, *kernel))
		mark.End()
		m.d.spares.noted(op.first)
	}
	p := parts{base: image.Base, vmlinux: kernel.Vmlinux, initrd: kernel.Initrd, accel: rec.Accel}
	if err := m.buildDir(ctx, op, p); err != nil {
		return m.diskError(err)
	}
	done()
	return trace.Do(ctx, "write known_hosts", m.d.writeKnownHosts)
}

// ensureKernel returns the kernel, if it is not known already.
func (d *Daemon) ensureKernel(ctx context.Context, known *Kernel, name string, r *reporter) (*Kernel, error) {
	if known != nil {
		return known, nil
	}
	kernel, err := d.opts.Assets.Kernel(ctx, name, r.progress)
	return &kernel, err
}

// buildDir makes the instance directory under its unfinished name and renames
// it.
func (m *machine) buildDir(ctx context.Context, op *operation, p parts) error {
	rec := m.look().rec
	temp := layout.Instance(layout.Temp(m.dir.Dir()))
	if err := os.Mkdir(temp.Dir(), 0o700); err != nil {
		return err
	}
	if m.d.templates.fork(ctx, op.first, temp) {
		p.template = op.first.template
	} else if err := m.d.newDisks(ctx, temp, rec.OverlayBytes, rec.DiskBytes); err != nil {
		return err
	}
	if op.first != nil {
		p.templateError = op.first.problem
	}
	spec, err := m.d.spec(rec, p)
	if err != nil {
		return err
	}
	if err := trace.Do(ctx, "write spec.json", func() error { return writeSpec(temp, spec, m.look().rec.Ephemeral) }); err != nil {
		return err
	}
	if err := op.step(ctx, stepRename); err != nil {
		return err
	}
	return os.Rename(temp.Dir(), m.dir.Dir())
}

// newDisks makes the empty disks of a VM in dir.
func (d *Daemon) newDisks(ctx context.Context, dir layout.Instance, overlay, work int64) error {
	errs := make(chan error, 2)
	disk := func(path string, size int64, label string) {
		errs <- trace.Do(ctx, "make the disk "+label, func() error { return d.opts.Assets.Disk(ctx, path, size, label) })
	}
	go disk(dir.Overlay(), overlay, "overlay")
	go disk(dir.Work(), work, "work")
	return errors.Join(<-errs, <-errs)
}

// diskError gives a full disk its own words.
func (m *machine) diskError(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return m.errorf(banger.CodeUnavailable, "cannot be made: no space left in %s", m.d.opts.Home.State).
		WithHint("banger vm list -a, and delete what is not needed; or BANGER_HOME on another disk")
}

// undo takes back a create that failed or was cancelled, and returns why it
// was. What cannot be taken back in time is left to the next start of the
// daemon, which finds the operation.
func (o *operation) undo(cause error) error {
	ctx, cancel := detached(o.m.d.life)
	defer cancel()
	if err := o.m.undoCreate(ctx); err != nil {
		o.m.d.log.Error("a create is not undone", "vm", o.m.id, "error", err)
		o.m.set(func() {
			o.m.rec.State = banger.StateError
			o.m.rec.Reason = fmt.Sprintf("its creation failed (%v) and is not undone: %v", cause, err)
		})
	}
	return cause
}

func (m *machine) undoCreate(ctx context.Context) error {
	if err := m.powerOff(ctx); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(layout.Temp(m.dir.Dir())), removeDir(m.dir)); err != nil {
		return err
	}
	return m.remove(ctx)
}

// removeDir removes an instance directory so that a crash in the middle leaves
// an unfinished one, never half a VM.
func removeDir(dir layout.Instance) error {
	temp := layout.Temp(dir.Dir())
	if err := os.Rename(dir.Dir(), temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(temp)
}

// remove deletes the record with its operation, and forgets the machine.
func (m *machine) remove(ctx context.Context) error {
	m.saving.Lock()
	err := m.update(ctx, func(tx *store.Tx) error { return tx.Forget(m.id) })
	if err == nil {
		m.set(func() { m.gone = true })
	}
	m.saving.Unlock()
	if err != nil {
		return err
	}
	m.d.forget(m)
	if err := trace.Do(ctx, "write known_hosts", m.d.writeKnownHosts); err != nil {
		m.d.log.Warn("known_hosts is not written", "error", err)
	}
	return nil
}
