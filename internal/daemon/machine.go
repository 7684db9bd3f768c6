package daemon

import (
	"context"
	"slices"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// machine is one VM in memory.
type machine struct {
	d   *Daemon
	id  string
	dir layout.Instance
	// turn holds one token: who has it operates on the VM.
	turn chan struct{}

	// saving orders changes of the record, in memory and in the store.
	saving sync.Mutex

	mu  sync.Mutex // guards what follows
	rec store.VM
	// status is the supervisor's last word, nil when none is connected.
	status *vmv1.StatusResponse
	client vmv1connect.SupervisorClient
	// proc is the supervisor, once it is known.
	proc *process.Handle
	// ending: whoever operates is powering the VM off; no successor is wanted.
	ending bool
	// gone: the VM is deleted; nothing is saved any more.
	gone bool
	// changed is closed and replaced at every change.
	changed chan struct{}
	// followed is closed when the follower has ended; nil before the first.
	followed chan struct{}
	crashes  []crash
	// interrupt cancels the operation that holds the turn, if it can be.
	interrupt context.CancelCauseFunc
	// recorder is that of the request which last began an operation, if it was
	// traced; it is closed when the request ends.
	recorder *trace.Recorder
	// leases are those held now, leaseEpoch counts all that ever were.
	leases, leaseEpoch int
	// spareError is why the VM was not made from a spare that was there.
	spareError string
}

func newMachine(d *Daemon, rec store.VM) *machine {
	m := &machine{
		d: d, id: rec.ID, dir: d.opts.Home.Instance(rec.ID), rec: rec,
		turn: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	m.turn <- struct{}{}
	return m
}

// take waits for the machine's turn. A machine that was deleted meanwhile is
// not_found.
func (m *machine) take(ctx context.Context) error {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if now := m.look(); now.gone {
		m.give()
		return banger.Errorf(banger.CodeNotFound, "vm %q is deleted", now.rec.Name)
	}
	return nil
}

// give hands the turn back.
func (m *machine) give() { m.turn <- struct{}{} }

// view is a machine at one moment.
type view struct {
	rec      store.VM
	spareErr string
	status   *vmv1.StatusResponse
	client   vmv1connect.SupervisorClient
	gone     bool
	changed  <-chan struct{}
	followed <-chan struct{}
}

// following reports whether a supervisor is there or on its way.
func (v view) following() bool {
	if v.followed == nil {
		return false
	}
	select {
	case <-v.followed:
		return false
	default:
		return true
	}
}

// look returns the machine as it is; changed is closed when that is no more so.
func (m *machine) look() view {
	m.mu.Lock()
	defer m.mu.Unlock()
	return view{m.rec, m.spareError, m.status, m.client, m.gone, m.changed, m.followed}
}

// set changes the machine in memory and wakes who waits for it.
func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	close(m.changed)
	m.changed = make(chan struct{})
}

// save changes the record, in the store and then in memory, with whatever else
// belongs to the same transaction.
func (m *machine) save(ctx context.Context, change func(*store.VM), with ...func(*store.Tx) error) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	now := m.look()
	if now.gone {
		return nil
	}
	rec := now.rec
	change(&rec)
	err := m.update(ctx, func(tx *store.Tx) error {
		if err := tx.PutVM(rec); err != nil {
			return err
		}
		for _, f := range with {
			if err := f(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	m.set(func() { m.rec = rec })
	return nil
}

// update changes the store. A VM that is deleted with its client does not outlive
// the host: nothing waits for the disk on its behalf.
func (m *machine) update(ctx context.Context, f func(*store.Tx) error) error {
	if m.look().rec.Ephemeral {
		return m.d.store.UpdateLazily(ctx, f)
	}
	return m.d.store.Update(ctx, f)
}

// interruptible makes a context that interruptOperation cancels, for the
// operation that holds the turn.
func (m *machine) interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	m.set(func() { m.interrupt = cancel })
	return ctx, func() {
		m.set(func() { m.interrupt = nil })
		cancel(nil)
	}
}

// interruptOperation cancels the operation under way, if it can be.
func (m *machine) interruptOperation(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.interrupt != nil {
		m.interrupt(cause)
	}
}

// proto is the VM as the contract shows it.
func (v view) proto(dir layout.Instance) *bangerv1.VM {
	r := v.rec
	vm := &bangerv1.VM{
		Id: r.ID, Name: r.Name, State: string(r.State), Reason: r.Reason, Image: r.Image,
		ImageDigest: r.ImageDigest, Kernel: r.Kernel, Vcpu: int32(r.VCPU), MemoryMib: r.MemoryMiB,
		DiskBytes: r.DiskBytes, OverlayBytes: r.OverlayBytes, Nat: r.NAT,
		CreatedUnixMs: r.Created.UnixMilli(), Driver: r.Driver, Accel: r.Accel,
		Confinement: slices.Clone(r.Confinement), Ready: string(r.Ready),
		FailedUnits: slices.Clone(r.FailedUnits), Ephemeral: r.Ephemeral, Dir: dir.Dir(),
		Origin: r.Origin, TemplateError: r.TemplateError, SpareError: v.spareErr,
		Address: r.Address, Publish: publishMessages(r.Publish),
	}
	if rules, err := policy.Unmarshal(r.Policy); err == nil {
		vm.Policy = rules.Summary()
	}
	vm.StartedUnixMs, vm.ExpiresUnixMs = unixMs(r.Started), unixMs(r.Expires)
	if v.status != nil {
		vm.SupervisorPid, vm.VmmPid = v.status.Pid, v.status.VmmPid
	}
	return vm
}

func (m *machine) proto() *bangerv1.VM { return m.look().proto(m.dir) }

// errorf makes an error about this VM.
func (m *machine) errorf(code banger.Code, format string, args ...any) *banger.Error {
	args = append([]any{m.look().rec.Name}, args...)
	return banger.Errorf(code, "vm %q "+format, args...)
}

// unixMs is t in Unix milliseconds, 0 for the zero time.
func unixMs(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// fromUnixMs is the reverse of unixMs.
func fromUnixMs(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
