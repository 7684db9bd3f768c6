package daemon

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// offer is the spare that a new VM could be, if one waits. Whatever speaks
// against it is no reason not to make the VM in the ordinary way.
func (s *spares) offer(ctx context.Context, rec store.VM, kernel *Kernel, noStart bool) *spare {
	if rec.Cold || noStart || kernel == nil || s.waiting("") == 0 || s.d.taken(rec.Name) {
		return nil
	}
	digest, err := s.d.localDigest(rec.Image)
	if err != nil || digest == "" {
		return nil
	}
	image := Image{Name: rec.Image, ID: digest, Base: s.d.opts.Home.Image(rec.Image).Base()}
	first := s.d.templates.orSmaller(s.d.templates.first(ctx, rec, image, *kernel))
	if first == nil {
		return nil
	}
	sp := s.take(first.recipe.key)
	if sp == nil {
		return nil
	}
	sp.watch()
	<-sp.ended
	s.noted(first)
	sp.grow = first.grow
	return sp
}

// notClaimed: the spare is gone; the VM, called name, is made in another way.
type notClaimed struct {
	name string
	err  error
}

// Error implements error.
func (e *notClaimed) Error() string { return e.err.Error() }

// createFromSpare makes the VM of rec from a spare.
//
//	record with the spare's id → claim → running, ready
//
// A *notClaimed says that all of that is undone, and that the client has heard
// nothing of it.
func (d *Daemon) createFromSpare(ctx context.Context, rec store.VM, sp *spare, r *reporter) error {
	rec.ID, rec.ImageDigest = sp.id, sp.recipe.ImageDigest
	m, op, err := d.reserve(ctx, rec)
	if err != nil {
		// The name is taken, or the store does not take it: nobody has it yet.
		d.spares.end(sp)
		return err
	}
	defer m.give()
	release := m.hold()
	defer release()
	m.set(func() { m.proc = sp.proc })
	work, done := m.interruptible(ctx)
	defer done()
	mark := trace.Begin(ctx, "claim a spare")
	status, err := m.claim(work, op, sp)
	mark.End()
	if err == nil {
		err = sp.grow.ask(work, sp.client)
	}
	sp.hangUp()
	if err == nil {
		err = m.claimed(work, op, sp, status)
	}
	sp.owner.Close()
	if err != nil {
		name := m.look().rec.Name
		undone := op.undo(err)
		if work.Err() != nil {
			return context.Cause(work)
		}
		return &notClaimed{name, undone}
	}
	if err := d.templates.store.Touch(sp.recipe.key); err != nil {
		d.log.Debug("the use of a template is not noted", "error", err)
	}
	return errors.Join(r.spec(m.proto()), r.vm(m.proto()))
}

// claim makes the spare m's.
func (m *machine) claim(ctx context.Context, op *operation, sp *spare) (*vmv1.StatusResponse, error) {
	if err := op.point(stepClaim); err != nil {
		return nil, err
	}
	p := sp.recipe.parts
	p.template = m.d.opts.Home.Template(sp.recipe.key).Dir()
	spec, err := m.d.spec(m.look().rec, p)
	if err != nil {
		return nil, err
	}
	answer, err := sp.client.Claim(ctx, connect.NewRequest(&vmv1.ClaimRequest{Spec: spec, Lazy: m.look().rec.Ephemeral}))
	if err != nil {
		return nil, err
	}
	if status := answer.Msg.Status; status.GetState() == "running" {
		return status, nil
	}
	return nil, banger.Errorf(banger.CodeFailed, "the spare ended as it was claimed")
}

// claimed ends the operation with a VM that runs.
func (m *machine) claimed(ctx context.Context, op *operation, sp *spare, status *vmv1.StatusResponse) error {
	if err := op.point(stepClaimed); err != nil {
		return err
	}
	if err := m.d.writeKnownHosts(); err != nil {
		return err
	}
	if err := op.end(ctx, func(rec *store.VM) { take(rec, status) }); err != nil {
		return err
	}
	m.startFollower(sp.proc)
	return nil
}
