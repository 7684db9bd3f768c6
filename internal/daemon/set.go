package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/trace"
)

// setTime bounds a set: growing the file system of a large disk takes most of it.
const setTime = 10 * time.Minute

// growth is the detail of a set: what its disks are to have, in bytes; 0 leaves one
// as it is.
type growth struct {
	Disk    int64 `json:"disk,omitempty"`
	Overlay int64 `json:"overlay,omitempty"`
}

// ask has the supervisor of a VM grow its disks.
func (g growth) ask(ctx context.Context, c vmv1connect.SupervisorClient) error {
	for disk, bytes := range map[string]int64{"work": g.Disk, "overlay": g.Overlay} {
		if bytes == 0 {
			continue
		}
		mark := trace.Begin(ctx, "grow the disk "+disk)
		_, err := c.Grow(ctx, connect.NewRequest(&vmv1.GrowRequest{Disk: disk, Bytes: bytes}))
		mark.End()
		if err != nil {
			return err
		}
	}
	return nil
}

// set changes what a VM is: the record at once, then the spec, then the disks. One
// that was begun is finished, also by the next daemon: a disk that has grown stays
// so.
func (d *Daemon) set(ctx context.Context, req *bangerv1.SetVMRequest) (*bangerv1.VM, error) {
	m, err := d.resolve(req.Ref)
	if err != nil {
		return nil, err
	}
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	now := m.settled(ctx)
	grow, err := m.checkSet(now, req)
	if err != nil {
		return nil, err
	}
	detail, err := json.Marshal(grow)
	if err != nil {
		return nil, err
	}
	revision := m.nextRevision()
	op, err := m.beginWith(ctx, store.KindSet, detail, func(rec *store.VM) {
		if req.Nat != nil && *req.Nat != rec.NAT {
			rec.PolicyRevision = revision // finishSet puts it in force
		}
		applySet(rec, req)
	})
	if op == nil {
		return nil, err
	}
	d.ttl.look()
	if err == nil {
		err = m.finishSet(op)
	} else if ended := m.endSet(op); ended != nil {
		d.log.Error("a set is not ended", "vm", m.id, "error", ended)
	}
	return m.proto(), err
}

// applySet puts what needs nothing but the record into it.
func applySet(rec *store.VM, req *bangerv1.SetVMRequest) {
	rec.Name, rec.VCPU, rec.MemoryMiB = or(req.Name, rec.Name), or(int(req.Vcpu), rec.VCPU), or(req.MemoryMib, rec.MemoryMiB)
	if req.Nat != nil {
		rec.NAT = *req.Nat
	}
	if at, err := expiry(rec.Created, req.GetTtlMs()); req.TtlMs != nil && err == nil {
		rec.Expires = at
	}
}

// checkSet checks all of a request before anything of it is done.
func (m *machine) checkSet(now view, req *bangerv1.SetVMRequest) (growth, error) {
	grow := growth{Disk: disk.RoundUp(req.DiskBytes), Overlay: disk.RoundUp(req.OverlayBytes)}
	rec := now.rec
	switch {
	case rec.State == banger.StateCreating || rec.State == banger.StateDeleting || rec.State == banger.StateStopping:
		return grow, m.errorf(banger.CodeWrongState, "is %s", rec.State)
	case now.following() && rec.State == banger.StatePaused && grow != growth{}:
		return grow, m.isPaused()
	case now.following():
		if err := m.needsStop(req); err != nil {
			return grow, err
		}
	}
	for _, size := range []struct {
		flag      string
		want, has int64
	}{{"--disk-size", grow.Disk, rec.DiskBytes}, {"--system-overlay-size", grow.Overlay, rec.OverlayBytes}} {
		if size.want != 0 && size.want < size.has {
			return grow, m.errorf(banger.CodeUsage, "has %s, and disks only grow: %s %s is less",
				banger.FormatSize(size.has), size.flag, banger.FormatSize(size.want)).WithHint("another VM of that size")
		}
	}
	applySet(&rec, req)
	rec.DiskBytes, rec.OverlayBytes = max(rec.DiskBytes, grow.Disk), max(rec.OverlayBytes, grow.Overlay)
	if err := m.d.checkShape(&rec); err != nil {
		return grow, err
	}
	if err := m.checkTTL(req); err != nil {
		return grow, err
	}
	return grow, m.checkRename(req.Name)
}

// needsStop says what of a request cannot be done to a VM that runs.
func (m *machine) needsStop(req *bangerv1.SetVMRequest) error {
	rec := m.look().rec
	flag := ""
	switch {
	case req.Vcpu != 0 && int(req.Vcpu) != rec.VCPU:
		flag = "--vcpu"
	case req.MemoryMib != 0 && req.MemoryMib != rec.MemoryMiB:
		flag = "--memory"
	default:
		return nil
	}
	return m.errorf(banger.CodeWrongState, "is %s, and %s changes only while it is stopped", rec.State, flag).
		WithHint("banger vm stop %s", rec.Name)
}

func (m *machine) checkRename(name string) error {
	old := m.look().rec.Name
	if name == "" || name == old {
		return nil
	}
	if err := banger.CheckName("vm", name); err != nil {
		return err
	}
	if m.d.taken(name) {
		return banger.Errorf(banger.CodeWrongState, "vm %q cannot be called %q: another VM is", old, name).
			WithHint("another --name, or banger vm delete %s", name)
	}
	return nil
}

// finishSet brings a set that was begun to its end.
func (m *machine) finishSet(op *operation) error {
	var grow growth
	if err := json.Unmarshal(op.rec.Detail, &grow); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.traced(m.d.life), setTime)
	defer cancel()
	err := op.step(ctx, stepSpec)
	if err == nil {
		err = m.rewriteSpec()
	}
	if err == nil {
		err = m.applyPolicy(ctx)
	}
	if err == nil {
		err = op.step(ctx, stepGrow)
	}
	if err == nil {
		err = m.growDisks(ctx, grow)
	}
	if err == nil {
		err = op.step(ctx, stepGrown)
	}
	if ended := m.endSet(op); err == nil {
		err = ended
	}
	if err == nil {
		err = m.d.writeKnownHosts()
	}
	if err != nil {
		return m.errorf(banger.CodeOf(err), "is not all changed: %w", err).WithHint("banger vm show %s", m.look().rec.Name)
	}
	return nil
}

// endSet ends a set. What the disks have is what their files have.
func (m *machine) endSet(op *operation) error {
	return op.end(m.d.life, func(rec *store.VM) {
		rec.DiskBytes = max(rec.DiskBytes, fileSize(m.dir.Work()))
		rec.OverlayBytes = max(rec.OverlayBytes, fileSize(m.dir.Overlay()))
	})
}

// rewriteSpec has the spec say what the record does, for a store that is lost. Who
// the guest is, in it, is what it was told at its last start.
func (m *machine) rewriteSpec() error {
	spec, err := readSpec(m.dir)
	if err != nil {
		return err
	}
	rec := m.look().rec
	spec.Name, spec.Vcpu, spec.MemoryMib = rec.Name, int32(rec.VCPU), rec.MemoryMiB
	spec.ExpiresUnixMs = unixMs(rec.Expires)
	return writeSpec(m.dir, spec, false)
}

// growDisks makes the disks larger: through the supervisor of a VM that runs, else
// their files, and the guest does the rest as it boots.
func (m *machine) growDisks(ctx context.Context, grow growth) error {
	for _, d := range []struct {
		name, path string
		bytes      int64
	}{{"work", m.dir.Work(), grow.Disk}, {"overlay", m.dir.Overlay(), grow.Overlay}} {
		if d.bytes == 0 {
			continue
		}
		err := errDied
		if m.look().following() {
			err = m.askSupervisor(ctx, func(ctx context.Context, c vmv1connect.SupervisorClient) error {
				_, err := c.Grow(ctx, connect.NewRequest(&vmv1.GrowRequest{Disk: d.name, Bytes: d.bytes}))
				return err
			})
		}
		if errors.Is(err, errDied) {
			err = disk.Grow(d.path, d.bytes)
		}
		if err != nil {
			return m.diskError(err)
		}
	}
	return nil
}
