package daemon

import (
	"context"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// hold takes a lease on the VM. The returned function gives it back; the last
// one of an ephemeral VM begins its grace.
func (m *machine) hold() (release func()) {
	m.set(func() { m.leases++; m.leaseEpoch++ })
	return func() {
		m.set(func() { m.leases-- })
		m.d.expire(m)
	}
}

// expire deletes an ephemeral VM if nobody takes a lease within the grace.
func (d *Daemon) expire(m *machine) {
	if now := m.look(); now.gone || !now.rec.Ephemeral {
		return
	}
	epoch := m.unheld()
	if epoch < 0 {
		return
	}
	d.work.Go(func() {
		grace := time.NewTimer(d.opts.LeaseGrace)
		defer grace.Stop()
		for {
			now := m.look()
			if now.gone || !now.rec.Ephemeral || m.unheld() != epoch {
				return
			}
			select {
			case <-now.changed:
			case <-grace.C:
				d.log.Info("an ephemeral VM has no client any more", "vm", m.id)
				if _, err := d.delete(d.life, &bangerv1.DeleteVMRequest{Ref: m.id, Force: true}); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
					d.log.Error("an ephemeral VM is not deleted", "vm", m.id, "error", err)
				}
				return
			case <-d.life.Done():
				return
			}
		}
	})
}

// unheld tells one time without a lease from the next; it is negative while
// there is a lease.
func (m *machine) unheld() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases > 0 {
		return -1
	}
	return m.leaseEpoch
}

// lease holds a VM for a client until the client leaves or the VM is deleted.
func (d *Daemon) lease(ctx context.Context, ref string, granted func() error) error {
	m, err := d.resolve(ref)
	if err != nil {
		return err
	}
	release := m.hold()
	defer release()
	if err := granted(); err != nil {
		return err
	}
	for {
		now := m.look()
		if now.gone {
			return nil
		}
		select {
		case <-now.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
