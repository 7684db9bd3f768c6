package daemon

import (
	"context"
	"encoding/json"
	"time"

	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/store"
)

// The steps of the operations, as they are recorded and as fault.Point names
// them: KIND.STEP. Each is recorded before the world changes.
const (
	stepBegun   = "begun"   // the record exists, nothing else
	stepDisks   = "disks"   // the unfinished directory and its disks
	stepRename  = "rename"  // the directory gets its name
	stepSpawn   = "spawn"   // the supervisor is about to be started
	stepSpawned = "spawned" // it was started
	stepReady   = "ready"   // the guest is ready; the operation is about to end
	stepPause   = "pause"   // the supervisor is about to be asked
	stepPaused  = "paused"  // the guest stands still
	stepResume  = "resume"  // the supervisor is about to be asked
	stepResumed = "resumed" // the guest goes on
	stepSpec    = "spec"    // the spec is about to be written anew
	stepGrow    = "grow"    // the disks are about to grow
	stepGrown   = "grown"   // they have grown
	stepStop    = "stop"    // the supervisor is about to be asked, or ended
	stepStopped = "stopped" // nothing runs
	stepRemove  = "remove"  // the directory is renamed and removed
	stepRemoved = "removed" // nothing is left but the record
)

// FaultPoints are all steps of all operations in the order they are passed.
func FaultPoints() map[store.Kind][]string {
	return map[store.Kind][]string{
		store.KindCreate: {stepBegun, stepDisks, stepRename, stepSpawn, stepSpawned, stepReady},
		store.KindStart:  {stepBegun, stepSpawn, stepSpawned, stepReady},
		store.KindStop:   {stepBegun, stepStop, stepStopped},
		store.KindSet:    {stepBegun, stepSpec, stepGrow, stepGrown},
		store.KindPause:  {stepBegun, stepPause, stepPaused},
		store.KindResume: {stepBegun, stepResume, stepResumed},
		store.KindKill:   {stepBegun, stepStop, stepStopped},
		store.KindDelete: {stepBegun, stepStop, stepRemove, stepRemoved},
	}
}

// operation is one that is under way.
type operation struct {
	m   *machine
	rec store.Operation
	// starts: a create that starts the VM, too.
	starts bool
	// first is set where it is the VM's first run, and a template could be used.
	first *firstRun
}

// begin records an operation, together with a change of the VM's record.
func (m *machine) begin(ctx context.Context, kind store.Kind, change func(*store.VM)) (*operation, error) {
	return m.beginWith(ctx, kind, nil, change)
}

// beginWith is begin with what whoever finishes the operation must know.
func (m *machine) beginWith(ctx context.Context, kind store.Kind, detail json.RawMessage, change func(*store.VM)) (*operation, error) {
	m.record(ctx)
	op := &operation{m: m, rec: store.Operation{VMID: m.id, Kind: kind, Step: stepBegun, Detail: detail, Started: time.Now()}}
	err := m.save(ctx, change, func(tx *store.Tx) error { return tx.Begin(&op.rec) })
	if err != nil {
		return nil, err
	}
	return op, op.point(stepBegun)
}

// step records that the operation is about to do something.
func (o *operation) step(ctx context.Context, name string) error {
	o.rec.Step = name
	err := o.m.update(ctx, func(tx *store.Tx) error { return tx.Step(o.rec) })
	if err != nil {
		return err
	}
	return o.point(name)
}

// point lets a test hurt the daemon here.
func (o *operation) point(name string) error {
	var peers []int
	if status := o.m.look().status; status != nil {
		peers = []int{int(status.Pid), int(status.VmmPid)}
	}
	return fault.Point(string(o.rec.Kind)+"."+name, peers...)
}

// end records that the operation is over, together with a change of the VM.
func (o *operation) end(ctx context.Context, change func(*store.VM)) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return o.m.save(ctx, change, func(tx *store.Tx) error { return tx.End(o.rec) })
}

// detached is a context for cleanup: it does not end with ctx, but in time.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}

// unchanged is for an operation's end that changes nothing else.
func unchanged(*store.VM) {}
