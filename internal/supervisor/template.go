package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"google.golang.org/protobuf/proto"
)

const (
	// templateTime bounds the making of a template, from start to frozen.
	templateTime = 10 * time.Minute
	// endedTime is how long a VMM whose connections have ended may take to be gone.
	endedTime = 2 * time.Second
	// originBoot, originTemplate and originSpare are how a guest came to be.
	originBoot     = "boot"
	originTemplate = "template"
	originSpare    = "spare"
)

// MakeTemplate boots the guest of dir's spec as nobody's, waits until its system
// is ready, warms it, and freezes it into dir. The caller holds dir's lock. No
// VMM is left, whatever it returns.
func MakeTemplate(ctx context.Context, dir layout.Instance, o Options) error {
	ctx, cancel := context.WithTimeout(ctx, templateTime)
	defer cancel()
	s := &supervisor{
		dir: dir, log: o.Log, messages: newRation(messageRate()),
		status: newStatus(&vmv1.StatusResponse{State: stateStarting}),
	}
	var err error
	if s.spec, err = loadSpec(dir); err != nil {
		return err
	}
	if s.driver = o.Drivers[s.spec.Driver]; s.driver == nil {
		return banger.Errorf(banger.CodeUsage, "unknown driver %q", s.spec.Driver)
	}
	if s.spec.Boot, err = templateBoot(s.spec.Boot); err != nil {
		return err
	}
	return s.makeTemplate(ctx)
}

// templateBoot makes the identity of a spec that of a template: nothing personal
// is left in it.
func templateBoot(serialised []byte) ([]byte, error) {
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(serialised, boot); err != nil {
		return nil, err
	}
	return proto.Marshal(&agentv1.Boot{
		Id: "template", Hostname: "template", MachineId: boot.MachineId, Network: boot.Network, Template: true,
	})
}

func (s *supervisor) makeTemplate(ctx context.Context) error {
	if err := s.clearRun(); err != nil {
		return err
	}
	m := machine(s.spec, s.dir)
	m.Freezable = true
	save := func(h driver.Handle) error {
		if err := fault.Point("template.launched", h.PID); err != nil {
			return err
		}
		if err := saveHandle(s.dir, h); err != nil {
			return err
		}
		return fault.Point("template.saved", h.PID)
	}
	vm, err := s.driver.Start(ctx, m, save)
	if err != nil {
		return err
	}
	s.vm = vm
	err = s.bootAndFreeze(ctx)
	// Freeze has ended the VMM; after an error it may live.
	return errors.Join(err, s.kill(), vm.Release(), remove(s.dir.VMM()))
}

// bootAndFreeze takes the started VMM to a frozen guest.
func (s *supervisor) bootAndFreeze(ctx context.Context) error {
	freezer, ok := s.vm.(driver.Freezer)
	if !ok {
		return banger.Errorf(banger.CodeUnavailable, "driver %s cannot freeze a guest", s.driver.Name())
	}
	console, err := s.vm.Console(ctx)
	if err != nil {
		return err
	}
	said := &lastBytes{limit: 2000}
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(said, console)
	}()
	defer func() { console.Close(); <-read }()
	if err := s.letRun(ctx); err != nil {
		return err
	}
	if err := fault.Point("template.running", s.vm.Info().PID); err != nil {
		return err
	}
	if err := s.warmGuest(ctx); err != nil {
		return fmt.Errorf("%w; the console's end: %s", s.orItsEnd(ctx, err), said)
	}
	if err := s.hangUp(ctx); err != nil {
		return err
	}
	if err := s.vm.Link().Close(); err != nil {
		return err
	}
	if err := fault.Point("template.freeze", s.vm.Info().PID); err != nil {
		return err
	}
	began := time.Now()
	if err := freezer.Freeze(ctx, s.dir.Dir()); err != nil {
		return err
	}
	s.log.Info("the guest is frozen", "took_ms", time.Since(began).Milliseconds())
	return nil
}

// hungUpTime is what a guest gets, once a session has ended, to do what that left
// it to do. It says nothing when it has.
const hungUpTime = 50 * time.Millisecond

// hangUp ends the session: a guest that is frozen with one ends it in each of its
// copies, while a command waits.
func (s *supervisor) hangUp(ctx context.Context) error {
	if err := s.vm.Link().End(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(hungUpTime)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// orItsEnd is how the VM ended, if it has, else err: of a VMM that dies the
// connections end a little before it is gone.
func (s *supervisor) orItsEnd(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(ctx, endedTime)
	defer cancel()
	exit, waitErr := s.vm.Wait(ctx)
	if waitErr != nil {
		return err
	}
	return fmt.Errorf("the VM ended: %s", exit.Reason)
}

// warmGuest waits until the guest's system is ready and runs the exercise in it.
func (s *supervisor) warmGuest(ctx context.Context) error {
	payload, err := bootPayload(s.spec)
	if err != nil {
		return err
	}
	// A VMM that ends has no answer: do not wait for one.
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		exit, err := s.vm.Wait(ctx)
		if err == nil {
			cancel(fmt.Errorf("the VM ended: %s", exit.Reason))
		}
	})
	defer watch.Wait()
	defer cancel(nil)
	if err := s.vm.Link().Reset(ctx, payload); err != nil {
		return causeOf(ctx, err)
	}
	client, done, err := s.agent(ctx)
	if err != nil {
		return causeOf(ctx, err)
	}
	defer done()
	system, err := awaitSystem(ctx, client)
	if err != nil {
		return causeOf(ctx, err)
	}
	if _, err := client.Warm(ctx, &agentv1.WarmRequest{}); err != nil {
		return causeOf(ctx, fmt.Errorf("warm: %w", err))
	}
	return saveSettled(s.dir, system)
}

// causeOf prefers the reason that ctx was cancelled for.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// awaitSystem returns how the guest's init system has settled, once it has.
func awaitSystem(ctx context.Context, client agentv1.AgentClient) (*agentv1.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := client.Events(ctx, &agentv1.EventsRequest{})
	if err != nil {
		return nil, err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return nil, fmt.Errorf("the guest never became ready: %w", err)
		}
		if banger.Grade(event.Ready) == banger.GradeSystem {
			return event, nil
		}
	}
}

// launch starts the VMM: from the spec's template, if it names one that can be
// restored, else with a guest that boots.
func (s *supervisor) launch(ctx context.Context) (driver.Instance, error) {
	m := machine(s.spec, s.dir)
	if s.spec.Template == "" {
		var unused error
		if s.spec.TemplateError != "" {
			unused = errors.New(s.spec.TemplateError)
		}
		s.setOrigin(originBoot, unused)
		return s.driver.Start(ctx, m, s.save(ctx))
	}
	restorer, ok := s.driver.(driver.Restorer)
	if !ok {
		return nil, banger.Errorf(banger.CodeUsage, "driver %s has no templates", s.driver.Name())
	}
	vm, err := restorer.Restore(ctx, m, s.spec.Template, s.save(ctx))
	if err == nil {
		s.setOrigin(originTemplate, nil)
		s.system = loadSettled(layout.Instance(s.spec.Template))
		return vm, nil
	}
	s.log.Warn("the template cannot be restored: booting", "error", err)
	s.setOrigin(originBoot, err)
	return s.driver.Start(ctx, m, s.save(ctx))
}

func (s *supervisor) setOrigin(origin string, err error) {
	s.status.update(func(r *vmv1.StatusResponse) {
		r.Origin, r.TemplateError = origin, ""
		if err != nil {
			r.TemplateError = err.Error()
		}
	})
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	limit int
	mu    sync.Mutex
	data  []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.data = append(l.data, p...)
	if extra := len(l.data) - l.limit; extra > 0 {
		l.data = append(l.data[:0], l.data[extra:]...)
	}
	return len(p), nil
}

// String returns what was kept.
func (l *lastBytes) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.data)
}
