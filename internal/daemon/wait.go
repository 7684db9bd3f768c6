package daemon

import (
	"context"
	"errors"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
)

// errDied: the VM ended while something waited for it.
var errDied = errors.New("the VM ended")

// errNotReady: the bound on readiness was reached.
var errNotReady = errors.New("the guest is not ready in time")

// await returns when ok holds, when the VM has no supervisor any more (errDied),
// or when ctx ends.
func (m *machine) await(ctx context.Context, ok func(view) bool, beat func()) error {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		now := m.look()
		switch {
		case ok(now):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case now.gone || !now.following():
			return errDied
		}
		select {
		case <-now.changed:
		case <-ticker.C:
			beat()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// stages of a start, with what each waits for.
var stages = []struct {
	name, doing, waiting string
	reached              func(view) bool
}{
	{"boot", "starting the VMM", "the VMM to start", func(v view) bool { return v.status != nil && v.status.State == "running" }},
	{"agent", "booting the guest", "the agent to answer", func(v view) bool { return v.rec.Ready.Reached(banger.GradeAgent) }},
	{"system", "the guest's init system is settling", "its init system to settle", func(v view) bool { return v.rec.Ready.Reached(banger.GradeSystem) }},
}

// awaitReady follows a start until the guest has reached grade, within timeout.
// errNotReady and errDied come with what was being waited for.
func (m *machine) awaitReady(ctx context.Context, w wish, r *reporter) (waiting string, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, w.timeout, errNotReady)
	defer cancel()
	for _, s := range stages {
		if s.name == "system" && w.grade != banger.GradeSystem {
			return "", nil
		}
		done := r.begin(s.name, s.doing)
		if err := m.await(bounded, s.reached, r.beat); err != nil {
			return s.waiting, err
		}
		done()
	}
	return "", nil
}

// wish is what a start waits for.
type wish struct {
	grade   banger.Grade
	timeout time.Duration
}

// newWish reads the fields of a request.
func newWish(waitFor string, timeoutMS int64) (wish, error) {
	w := wish{banger.GradeSystem, readyTimeout}
	switch banger.Grade(waitFor) {
	case banger.GradeNone, banger.GradeSystem:
	case banger.GradeAgent:
		w.grade = banger.GradeAgent
	default:
		return w, banger.Errorf(banger.CodeUsage, "readiness %q is not known: agent or system", waitFor)
	}
	if timeoutMS < 0 {
		return w, banger.Errorf(banger.CodeUsage, "a timeout of %d ms is not possible", timeoutMS)
	}
	if timeoutMS > 0 {
		w.timeout = time.Duration(timeoutMS) * time.Millisecond
	}
	return w, nil
}

// notReady is the error for a VM that is kept although it did not become ready.
func (m *machine) notReady(w wish, waiting string) error {
	name := m.look().rec.Name
	err := m.errorf(banger.CodeTimeout, "is not ready after %s: still waiting for %s; it is kept", w.timeout, waiting).
		WithHint("banger vm logs %s, or banger vm delete -f %s", name, name)
	return m.explained(err)
}

// died is the error for a VM that ended before it was ready.
func (m *machine) died(waiting string) error {
	rec := m.look().rec
	reason := rec.Reason
	if reason == "" {
		reason = "no reason is known"
	}
	err := m.errorf(banger.CodeFailed, "ended while waiting for %s: %s; it is kept", waiting, reason).
		WithHint("banger vm logs %s, or banger vm delete %s", rec.Name, rec.Name)
	return m.explained(err)
}

// explained adds the VM and its last console lines to an error.
func (m *machine) explained(err *banger.Error) error {
	return &apierr.VMError{Err: err, VMID: m.id, VMName: m.look().rec.Name, ConsoleTail: consoleTail(m.dir)}
}
