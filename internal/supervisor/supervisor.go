package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/logfile"
	"github.com/banger-dev/banger/internal/network"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/ports"
	"github.com/banger-dev/banger/internal/trace"
)

// Limits of the ways up and down.
const (
	// stopTime is how long a guest may take to shut down when nobody says.
	stopTime = 20 * time.Second
	// sessionGrace is how long a stop waits for a session to ask through.
	sessionGrace = 3 * time.Second
	// runTime bounds the wait for a VMM that is told to let its guest run.
	runTime = 60 * time.Second
	// killTime bounds the wait for a VMM that was killed.
	killTime = 10 * time.Second
)

// supervisor runs one VM.
type supervisor struct {
	dir    layout.Instance
	spec   *vmv1.Spec
	driver driver.Driver
	log    *slog.Logger
	trace  *trace.Recorder // nil while a template is made

	status   *status
	vm       driver.Instance
	network  *network.Network
	console  *logfile.File
	refusals *refusals
	// ruling orders changes of what the VM may reach.
	ruling sync.Mutex
	// ports is set before started is closed; told has room for a caller of Ports
	// who cannot wait for the guest's listeners to be asked for.
	ports *ports.Table
	told  chan struct{}
	// floor is when the guest may be spoken to.
	floor *floor
	// messages is what the guest's agent may still send.
	messages *ration
	// first is the console connection made before the guest ran.
	first io.ReadCloser
	// started is closed when vm is set, and is somebody's; over when the run is.
	started, over chan struct{}
	// claims has room for the one claim of a spare.
	claims chan *claim
	// system is how the guest of a template has settled, whose copy this is; nil:
	// it is to be asked.
	system *agentv1.Event
}

// run brings the VM up (adopt: takes it over), follows it, and returns when it
// has ended and everything about its end is on disk.
func (s *supervisor) run(ctx context.Context, adopt bool) error {
	err := s.bringUp(ctx, adopt)
	if adopt && errors.Is(err, driver.ErrGone) {
		return s.finish(earlierEnd(s.dir))
	}
	if err != nil {
		if left := s.endVMM(); left != nil {
			return errors.Join(err, left) // a successor finds it by its handle
		}
		return errors.Join(err, s.finish(exitRecord{Failed: true, Reason: err.Error()}))
	}
	s.openPorts()
	close(s.started)
	return s.finish(s.follow(ctx))
}

// bringUp starts or adopts the VMM and lets its guest run.
func (s *supervisor) bringUp(ctx context.Context, adopt bool) (err error) {
	if err := errors.Join(s.openNetwork(ctx), s.openConsole()); err != nil {
		return err
	}
	state := stateRunning
	if adopt {
		state, err = s.adopt(ctx)
	} else {
		err = s.start(ctx)
	}
	if err != nil {
		return err
	}
	info := s.vm.Info()
	s.status.update(func(r *vmv1.StatusResponse) {
		r.State, r.VmmPid, r.Driver, r.Accel = state, int32(info.PID), info.Driver, info.Accel
		r.Confinement, r.Successor = info.Confinement, adopt
	})
	return nil
}

// openNetwork makes the VM's network.
func (s *supervisor) openNetwork(ctx context.Context) error {
	defer trace.Begin(ctx, "network stack").End()
	allowed, err := policy.ParsePrefixes(s.spec.AllowPrivate)
	if err != nil {
		return err
	}
	rules, err := policyOf(s.spec.Policy)
	if err != nil {
		return err
	}
	if s.refusals, err = openRefusals(s.dir.PolicyLog()); err != nil {
		return err
	}
	s.network, err = network.New(network.Config{
		NAT:          s.spec.Nat,
		Policy:       &rules,
		Record:       s.refusals.record,
		DNSUpstream:  s.spec.DnsUpstream,
		AllowPrivate: allowed,
		Log:          s.log,
	})
	if err == nil {
		s.status.update(func(r *vmv1.StatusResponse) { r.PolicyRevision = s.spec.PolicyRevision })
	}
	return err
}

// openConsole opens the log of the guest's console.
func (s *supervisor) openConsole() (err error) {
	s.console, err = logfile.Open(s.dir.Console(), maxConsole)
	return err
}

// save returns what puts the handle of a VMM on disk that was launched and does
// not run yet.
func (s *supervisor) save(ctx context.Context) func(driver.Handle) error {
	return func(h driver.Handle) error {
		if err := fault.Point("supervisor.launched", h.PID); err != nil {
			return err
		}
		if err := trace.Do(ctx, "write vmm.json", func() error { return saveHandle(s.dir, h) }); err != nil {
			return err
		}
		return fault.Point("supervisor.saved", h.PID)
	}
}

// start launches a new VMM. Its handle is on disk before its guest runs.
func (s *supervisor) start(ctx context.Context) (err error) {
	if err := trace.Do(ctx, "clear what an earlier run left", s.clearRun); err != nil {
		return err
	}
	if err := fault.Point("supervisor.start"); err != nil {
		return err
	}
	if s.vm, err = s.launch(ctx); err != nil {
		return err
	}
	if s.first, err = s.vm.Console(ctx); err == nil {
		err = markBoot(s.console, time.Now())
	}
	if err == nil {
		err = fault.Point("supervisor.console", s.vm.Info().PID)
	}
	if err == nil {
		err = s.letRun(ctx)
	}
	if err != nil {
		return err
	}
	return fault.Point("supervisor.running", s.vm.Info().PID)
}

// adopt takes over the VMM that a crashed supervisor left. It makes sure that its
// guest goes on, or stands still if it was paused, wherever the crash was, and
// returns which.
func (s *supervisor) adopt(ctx context.Context) (state string, err error) {
	h, err := loadHandle(s.dir)
	if err != nil {
		return "", err
	}
	if s.vm, err = s.driver.Adopt(ctx, machine(s.spec, s.dir), h); err != nil {
		return "", err
	}
	if s.first, err = s.vm.Console(ctx); err != nil {
		s.log.Warn("no console of the VMM", "error", err)
	}
	if paused, err := s.stayPaused(ctx); paused {
		return statePaused, err
	}
	return stateRunning, s.letRun(ctx)
}

// letRun has the guest run, or go on.
func (s *supervisor) letRun(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, runTime,
		banger.Errorf(banger.CodeTimeout, "its VMM (process %d) did not let the guest run within %s", s.vm.Info().PID, runTime))
	defer cancel()
	return s.vm.Run(ctx)
}

// endVMM ends the VMM whose handle is on disk, if it lives: one that could not
// be brought up, or that an earlier run left.
func (s *supervisor) endVMM() error {
	h, err := loadHandle(s.dir)
	if errors.Is(err, driver.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	proc, err := vmmproc.Open(h)
	if errors.Is(err, driver.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	return vmmproc.Destroy(proc)
}

// follow runs everything that a living VM needs until its VMM is gone.
func (s *supervisor) follow(ctx context.Context) exitRecord {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { s.copyConsole(ctx, s.first) })
	all.Go(func() { s.joinNetwork(ctx) })
	all.Go(func() { s.floor.speak(ctx, s.followAll) })
	// The VM's life does not hang on ours: wait for it, not for ctx.
	exit, err := s.vm.Wait(context.WithoutCancel(ctx))
	cancel()
	all.Wait()
	s.ports.Close()
	s.vm.Link().Close()
	now, _ := s.status.get()
	wanted := now.State == stateStopping
	switch {
	case err != nil:
		return exitRecord{Reason: fmt.Sprintf("lost sight of the VMM: %v", err), Failed: true}
	case wanted && !exit.Clean:
		return exitRecord{Reason: "powered off"}
	}
	return exitRecord{Reason: exit.Reason, Clean: exit.Clean, Failed: !exit.Clean}
}

// joinNetwork connects the VM's network to its VMM until ctx ends.
func (s *supervisor) joinNetwork(ctx context.Context) {
	for retry := newBackoff(networkRetry); ; {
		conn, err := s.vm.Network(ctx)
		if err == nil {
			err = s.network.Attach(ctx, conn)
			conn.Close()
		}
		if !retry.wait(ctx) {
			return
		}
		s.log.Warn("the guest's network is joined again", "error", err)
	}
}

// stop asks the guest to shut down and powers it off after timeout. It reports
// whether the guest did it by itself.
func (s *supervisor) stop(ctx context.Context, timeout time.Duration) (clean bool, err error) {
	select {
	case <-s.started:
	case <-s.over:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if timeout <= 0 {
		timeout = stopTime
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := s.wake(ctx); err != nil {
		s.log.Warn("a paused guest does not go on", "error", err)
	}
	asked := s.ask(ctx)
	defer func() {
		for range asked {
		}
	}()
	select {
	case err = <-asked:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err == nil {
		if exit, err := s.vm.Wait(ctx); err == nil {
			return exit.Clean, nil
		}
	}
	s.log.Info("the guest did not shut down: powering it off", "error", err)
	if err := s.kill(); err != nil {
		return false, err
	}
	// A guest may be gone before its answer has left: it did it by itself then.
	exit, err := s.vm.Wait(context.WithoutCancel(ctx))
	return exit.Clean, err
}

// ask asks the guest to shut down, beside its caller: a stalled link holds up
// even the end of a stream. What it returns is closed when the call has ended, at
// the latest soon after the VMM has.
func (s *supervisor) ask(ctx context.Context) <-chan error {
	asked := make(chan error, 1)
	go func() {
		defer close(asked)
		session, done := context.WithTimeout(ctx, sessionGrace)
		defer done()
		err := s.awaitSession(session)
		if err == nil {
			mark := s.trace.BeginOf(agentName, 0, "Shutdown")
			err = s.askShutdown(ctx)
			mark.End()
		}
		asked <- err
	}()
	return asked
}

// kill powers the VM off at once.
func (s *supervisor) kill() error {
	s.status.begin(stateStopping, stateRunning, statePaused, stateStarting)
	ctx, cancel := context.WithTimeout(trace.With(context.Background(), s.trace), killTime)
	defer cancel()
	return s.vm.Kill(ctx)
}

// finish puts how the run ended on disk, and only then forgets the VMM: a crash
// in between is seen as an end, not as a VMM to adopt.
func (s *supervisor) finish(end exitRecord) error {
	end.Time = time.Now().UTC()
	err := saveExit(s.dir, end)
	if faultErr := fault.Point("supervisor.exit"); faultErr != nil {
		err = errors.Join(err, faultErr)
	}
	for _, path := range []string{
		s.dir.VMM(), s.dir.Booted(), s.dir.Paused(), s.dir.QMP(), s.dir.GuestCtl(), s.dir.GuestData(),
		s.dir.GuestNet(), s.dir.GuestConsole(),
	} {
		if removeErr := os.Remove(path); removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	err = errors.Join(err, fault.Point("supervisor.removed"))
	if s.network != nil {
		err = errors.Join(err, s.network.Close())
	}
	if s.refusals != nil { // after the network, which writes to it
		err = errors.Join(err, s.refusals.close())
	}
	if s.console != nil {
		err = errors.Join(err, s.console.Close())
	}
	s.log.Info("the VM has ended", "reason", end.Reason, "failed", end.Failed)
	s.status.stopped(end.Reason, end.Failed)
	return err
}

// clearRun removes what an earlier run left: it must not speak for this one, and
// no two VMMs may write on one disk.
func (s *supervisor) clearRun() error {
	if err := s.endVMM(); err != nil {
		return err
	}
	for _, path := range []string{s.dir.Exit(), s.dir.Booted(), s.dir.Paused(), s.dir.VMM()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
