package daemon

import (
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

const (
	// maxTTL is the longest time for which a VM may be made.
	maxTTL = 100 * 365 * 24 * time.Hour
	// expireAgain is how long after a failure a VM whose time is over is deleted again.
	expireAgain = time.Minute
)

// expiry is when a VM that was created then is to be deleted, ttlMs milliseconds
// later; zero for 0.
func expiry(created time.Time, ttlMs int64) (time.Time, error) {
	switch {
	case ttlMs == 0:
		return time.Time{}, nil
	case ttlMs < 0 || ttlMs > maxTTL.Milliseconds():
		return time.Time{}, banger.Errorf(banger.CodeUsage, "--ttl %s is not possible: it is more than nothing, and at most 100 years",
			time.Duration(max(min(ttlMs, maxTTL.Milliseconds()+1), -1))*time.Millisecond).WithHint("--ttl 2h")
	}
	return created.Add(time.Duration(ttlMs) * time.Millisecond), nil
}

// checkTTL checks the time that a request gives a VM: it counts from the creation.
func (m *machine) checkTTL(req *bangerv1.SetVMRequest) error {
	rec := m.look().rec
	at, err := expiry(rec.Created, req.GetTtlMs())
	if err != nil || at.IsZero() || at.After(time.Now()) {
		return err
	}
	old := time.Since(rec.Created).Round(time.Second)
	return m.errorf(banger.CodeUsage, "was created %s ago, and --ttl counts from then: it would be deleted at once", old).
		WithHint("banger vm set --ttl %s %s, or banger vm delete -f %[2]s", (old + time.Hour).Round(time.Minute), rec.Name)
}

// expiries are the times at which VMs are to be deleted.
func (d *Daemon) expiries() map[string]time.Time {
	list := map[string]time.Time{}
	for _, m := range d.all() {
		if now := m.look(); !now.gone && !now.rec.Expires.IsZero() {
			list[m.id] = now.rec.Expires
		}
	}
	return list
}

// expired deletes a VM whose time is over, whatever it does. It is an ordinary
// delete, which the next daemon finishes if this one is killed.
func (d *Daemon) expired(id string) error {
	m, err := d.resolve(id)
	if err != nil {
		return nil // somebody else has deleted it
	}
	d.log.Info("the time of a VM is over; it is deleted", "vm", id, "name", m.look().rec.Name)
	_, err = d.delete(d.life, &bangerv1.DeleteVMRequest{Ref: id, Force: true})
	if banger.CodeOf(err) == banger.CodeNotFound {
		return nil
	}
	if err != nil && d.life.Err() == nil {
		d.log.Error("a VM whose time is over is not deleted", "vm", id, "error", err)
	}
	return err
}
