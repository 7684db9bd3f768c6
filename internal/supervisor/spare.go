package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/trace"
)

const (
	// spareTime bounds the making of a spare, and claimTime the wait for the
	// guest of one that is claimed.
	spareTime = 2 * time.Minute
	claimTime = 30 * time.Second
)

// errNoOwner: nobody is left who could claim the spare.
var errNoOwner = errors.New("the daemon that made the spare has let go of it")

// claim is a call of Claim under way.
type claim struct {
	spec *vmv1.Spec
	lazy bool
	done chan error
}

// runSpare makes a spare, a VM that belongs to nobody yet, and once it is claimed
// follows it as run follows any VM.
//
//	restore → tell the guest a throw-away identity, warm it → end the session
//	→ pause ⇒ "spare" ⇒ Claim → spec.json → run, reset with the VM's identity
//	⇒ "running"
//
// Until it is claimed it ends when ctx does. A claim that fails ends it.
func (s *supervisor) runSpare(ctx context.Context) error {
	c, err := s.awaitClaim(ctx)
	if err == nil {
		err = s.accept(context.WithoutCancel(ctx), c)
		if err == nil {
			s.openPorts()
			close(s.started)
		}
		c.done <- err
	}
	if err != nil {
		if left := s.endVMM(); left != nil {
			return errors.Join(err, left)
		}
		return errors.Join(err, s.finish(exitRecord{Failed: true, Reason: err.Error()}))
	}
	return s.finish(s.follow(context.WithoutCancel(ctx)))
}

// awaitClaim makes the spare and returns the claim, or why there will be none.
func (s *supervisor) awaitClaim(ctx context.Context) (*claim, error) {
	making, cancel := context.WithTimeout(ctx, spareTime)
	defer cancel()
	if err := s.prepare(making); err != nil {
		return nil, causeOf(ctx, err)
	}
	gone := make(chan error, 1)
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		exit, err := s.vm.Wait(waiting)
		if err == nil {
			err = fmt.Errorf("the VMM of a spare ended: %s", exit.Reason)
		}
		gone <- err
	}()
	select {
	case c := <-s.claims:
		stop()
		<-gone
		return c, nil
	case err := <-gone:
		return nil, causeOf(ctx, err)
	}
}

// prepare brings the guest to where it waits.
func (s *supervisor) prepare(ctx context.Context) error {
	if err := s.openConsole(); err != nil {
		return err
	}
	if err := s.clearRun(); err != nil {
		return err
	}
	restorer, ok := s.driver.(driver.Restorer)
	if !ok {
		return banger.Errorf(banger.CodeUsage, "driver %s has no templates", s.driver.Name())
	}
	vm, err := restorer.Restore(ctx, machine(s.spec, s.dir), s.spec.Template, s.save(ctx))
	if err != nil {
		return err
	}
	s.vm = vm
	pauser, ok := vm.(driver.Pauser)
	if !ok {
		return banger.Errorf(banger.CodeUsage, "driver %s cannot pause a guest", s.driver.Name())
	}
	if s.first, err = vm.Console(ctx); err != nil {
		return err
	}
	if err := s.letRun(ctx); err != nil {
		return err
	}
	if err := s.rehearse(ctx); err != nil {
		return err
	}
	if err := s.hangUp(ctx); err != nil {
		return err
	}
	if err := pauser.Pause(ctx); err != nil {
		return err
	}
	if err := fault.Point("spare.paused", vm.Info().PID); err != nil {
		return err
	}
	info := vm.Info()
	s.status.update(func(r *vmv1.StatusResponse) {
		r.State, r.VmmPid, r.Driver, r.Accel = stateSpare, int32(info.PID), info.Driver, info.Accel
		r.Confinement = info.Confinement
	})
	return nil
}

// rehearse takes the guest once through all that its first command will go
// through: an identity, which is thrown away, and commands. The VMM has
// translated that code then.
func (s *supervisor) rehearse(ctx context.Context) error {
	payload, err := throwAway(s.spec.Boot)
	if err != nil {
		return err
	}
	if err := s.vm.Link().Reset(ctx, payload); err != nil {
		return err
	}
	client, done, err := s.agent(ctx)
	if err != nil {
		return err
	}
	defer done()
	// It settled long ago: that is not asked of it again when a command waits.
	if s.system, err = awaitSystem(ctx, client); err != nil {
		return err
	}
	if _, err := client.Warm(ctx, &agentv1.WarmRequest{Brief: true}); err != nil {
		return fmt.Errorf("warm: %w", err)
	}
	return nil
}

// throwAway is an identity that keeps the guest a template's.
func throwAway(serialised []byte) ([]byte, error) {
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(serialised, boot); err != nil {
		return nil, err
	}
	if !boot.Template {
		return nil, banger.Errorf(banger.CodeUsage, "the spec of a spare is somebody's")
	}
	boot.MachineId, boot.Hostname = banger.NewID(), "spare"
	boot.Entropy = make([]byte, 64)
	rand.Read(boot.Entropy)
	boot.TimeUnixNs = time.Now().UnixNano()
	return proto.Marshal(boot)
}

// accept makes the spare the VM of c.
func (s *supervisor) accept(ctx context.Context, c *claim) error {
	spec := c.spec
	ctx, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	if err := sameMachine(s.spec, spec); err != nil {
		return err
	}
	// The successor of a supervisor that crashes from here on finds a VM.
	if err := trace.Do(ctx, "write the spec", func() error { return writeSpec(s.dir.Spec(), spec, c.lazy) }); err != nil {
		return err
	}
	if err := fault.Point("claim.written", s.vm.Info().PID); err != nil {
		return err
	}
	if err := os.Remove(s.dir.Spare()); err != nil {
		return err
	}
	s.spec = spec
	if err := markBoot(s.console, time.Now()); err != nil {
		return err
	}
	if err := s.letRun(ctx); err != nil {
		return err
	}
	if err := fault.Point("claim.running", s.vm.Info().PID); err != nil {
		return err
	}
	made := make(chan error, 1)
	go func() { made <- s.openNetwork(ctx) }() // beside the guest's own work
	err := s.startSession(ctx)
	if err := errors.Join(err, <-made); err != nil {
		return err
	}
	s.status.update(func(r *vmv1.StatusResponse) {
		r.State, r.Origin, r.StartedUnixMs = stateRunning, originSpare, time.Now().UnixMilli()
	})
	s.applyEvent(s.system)
	return nil
}

// sameMachine refuses a spec whose machine is another.
func sameMachine(ours, spec *vmv1.Spec) error {
	hardware := func(s *vmv1.Spec) *vmv1.Spec {
		return &vmv1.Spec{
			Id: s.Id, Vcpu: s.Vcpu, MemoryMib: s.MemoryMib, BaseDisk: s.BaseDisk, OverlayDisk: s.OverlayDisk,
			WorkDisk: s.WorkDisk, Kernel: s.Kernel, Initrd: s.Initrd, Driver: s.Driver, Accel: s.Accel, VmmBin: s.VmmBin,
			Template: s.Template, Build: s.Build,
		}
	}
	if !proto.Equal(hardware(ours), hardware(spec)) {
		return banger.Errorf(banger.CodeWrongState, "the spare is of another machine than what is asked for")
	}
	if spec.RequireConfinement && !ours.RequireConfinement {
		return banger.Errorf(banger.CodeWrongState, "the spare was made before full confinement was required")
	}
	return nil
}

// writeSpec puts spec where a successor, and the next start, look for it. With
// lazy it does not wait for the disk.
func writeSpec(path string, spec *vmv1.Spec, lazy bool) error {
	data, err := protojson.MarshalOptions{Multiline: true}.Marshal(spec)
	if err != nil {
		return err
	}
	write := atomicfile.Write
	if lazy {
		write = atomicfile.WriteVolatile
	}
	return write(path, append(data, '\n'), 0o600)
}

// claim hands what is claimed to a spare that waits, and returns when that is its
// VM.
func (s *supervisor) claim(ctx context.Context, spec *vmv1.Spec, lazy bool) error {
	if spec == nil || !s.status.begin(stateStarting, stateSpare) {
		return banger.Errorf(banger.CodeWrongState, "this supervisor is no spare that waits")
	}
	c := &claim{spec: spec, lazy: lazy, done: make(chan error, 1)}
	s.claims <- c // there is room for the one that may be
	select {
	case err := <-c.done:
		return err
	case <-s.over:
		return banger.Errorf(banger.CodeWrongState, "the spare has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// owned returns a context that ends with errNoOwner when owner does, which the
// daemon that made a spare holds open, and a function that ends the watch.
func owned(ctx context.Context, owner *os.File) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		io.Copy(io.Discard, owner)
		cancel(errNoOwner)
	}()
	return ctx, func() {
		owner.SetReadDeadline(time.Unix(1, 0))
		<-watched
		cancel(nil)
	}
}
