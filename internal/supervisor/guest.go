package supervisor

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/fault"
)

const (
	// agentName is the agent in a trace: its calls as they are seen from here.
	agentName = "banger-agent"
	// maxUnits and maxUnitName bound what a guest says of its failed units.
	maxUnits    = 64
	maxUnitName = 256
	// rpcTime bounds one call to the agent.
	rpcTime = 10 * time.Second
	// settled is how long a session lasts that did not break at once.
	settled = 10 * time.Second
)

// followAll follows all that the guest says by itself, until ctx ends.
func (s *supervisor) followAll(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { s.followGuest(ctx) })
	both.Go(func() { s.followListeners(ctx) })
	both.Wait()
}

// followGuest keeps a session with the guest until ctx ends, at the latest when
// it is paused: it resets the link,
// follows the agent's events, and starts over when the session breaks.
func (s *supervisor) followGuest(ctx context.Context) {
	if now, _ := s.status.get(); now.Origin == originSpare {
		s.awaitBreak(ctx) // its session began with the claim
	}
	retry := newBackoff(linkRetry)
	for ctx.Err() == nil {
		begun := time.Now()
		if err := s.startSession(ctx); err != nil {
			s.log.Debug("no session with the guest", "error", err)
		} else if s.system != nil {
			// A copy has told all that it will, before it was copied: a command
			// waits now, and asking would cost it 30 ms.
			s.applyEvent(s.system)
			s.awaitBreak(ctx)
		} else {
			if err := s.followEvents(ctx); err != nil && ctx.Err() == nil {
				s.log.Info("the guest's events ended", "error", err)
			}
			// The events are on a stream: it may end alone, while the session
			// with its execs goes on. Ask for them again then.
			s.followAgain(ctx)
		}
		// A guest that breaks every session is not waited on hand and foot.
		if time.Since(begun) > settled {
			retry.reset()
		}
		if !retry.wait(ctx) {
			return
		}
	}
}

// awaitBreak returns when the session breaks, or ctx ends.
func (s *supervisor) awaitBreak(ctx context.Context) {
	select {
	case <-s.vm.Link().Broken():
	case <-ctx.Done():
	}
}

// followAgain asks for events on the living session until it breaks.
func (s *supervisor) followAgain(ctx context.Context) {
	retry := newBackoff(linkRetry)
	broken := s.vm.Link().Broken()
	for retry.wait(ctx) {
		select {
		case <-broken:
			return
		default:
			s.followEvents(ctx)
		}
	}
}

// startSession resets the link. The first reset of a run tells the guest who it
// is; a successor does so only if nobody has.
func (s *supervisor) startSession(ctx context.Context) error {
	var payload []byte
	if _, err := os.Stat(s.dir.Booted()); errors.Is(err, os.ErrNotExist) {
		if payload, err = bootPayload(s.spec); err != nil {
			return err
		}
	}
	what := "link reset"
	if payload != nil {
		what = "link reset, Boot applied"
	}
	mark := s.trace.BeginOf(agentName, 0, what)
	if err := s.vm.Link().Reset(ctx, payload); err != nil {
		return err
	}
	mark.End()
	// That was an answer of the agent; commands can run from here.
	s.applyEvent(&agentv1.Event{Ready: string(banger.GradeAgent)})
	if payload != nil {
		if err := fault.Point("supervisor.reset", s.vm.Info().PID); err != nil {
			return err
		}
		return os.WriteFile(s.dir.Booted(), nil, 0o600)
	}
	return nil
}

// followEvents keeps the readiness in the status, until the stream ends.
func (s *supervisor) followEvents(ctx context.Context) error {
	mark := s.trace.BeginOf(agentName, 0, "Events, until the first")
	client, done, err := s.agent(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := client.Events(ctx, &agentv1.EventsRequest{})
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.applyEvent(event)
		if first {
			mark.End()
			s.setClock(ctx, client)
		}
	}
}

// setClock sets the guest's clock to this moment: what the reset carried is as
// old as the boot was long.
func (s *supervisor) setClock(ctx context.Context, client agentv1.AgentClient) {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	mark := s.trace.BeginOf(agentName, 0, "Tune")
	defer mark.End()
	if _, err := client.Tune(ctx, &agentv1.TuneRequest{TimeUnixNs: time.Now().UnixNano()}); err != nil {
		s.log.Warn("the guest's clock is not set", "error", err)
	}
}

// applyEvent takes what the guest says of itself, within bounds. A grade never
// goes down within a run.
func (s *supervisor) applyEvent(event *agentv1.Event) {
	grade := banger.Grade(event.Ready)
	if grade != banger.GradeAgent && grade != banger.GradeSystem {
		return
	}
	units := boundUnits(event.FailedUnits)
	s.status.update(func(r *vmv1.StatusResponse) {
		if grade.Reached(banger.Grade(r.Ready)) {
			r.Ready, r.FailedUnits = string(grade), units
		}
	})
}

// boundUnits copies what is kept of the names: a slice of them would hold on to
// all of the guest's message. A name that is cut stays UTF-8, without which no
// status could be sent.
func boundUnits(names []string) []string {
	var units []string
	for _, name := range names[:min(len(names), maxUnits)] {
		units = append(units, strings.ToValidUTF8(strings.Clone(name[:min(len(name), maxUnitName)]), ""))
	}
	return units
}

// askShutdown tells the agent to shut the guest down.
func (s *supervisor) askShutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	client, done, err := s.agent(ctx)
	if err != nil {
		return err
	}
	defer done()
	_, err = client.Shutdown(ctx, &agentv1.ShutdownRequest{})
	return err
}

// awaitSession returns when there is a session with the guest, or ctx ends. There
// is none while the guest is paused.
func (s *supervisor) awaitSession(ctx context.Context) error {
	retry := newBackoff(time.Millisecond)
	for {
		if now, _ := s.status.get(); now.State == statePaused {
			return errPaused
		}
		select {
		case <-s.vm.Link().Broken():
			if !retry.wait(ctx) {
				return ctx.Err()
			}
		default:
			return nil
		}
	}
}
