package supervisor

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/allowance"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/logfile"
	"github.com/banger-dev/banger/internal/policy"
)

const (
	// maxPolicyLog bounds the log of refusals, in bytes; the one before is kept.
	maxPolicyLog = 1 << 20
	// waitingRefusals is how many may wait to be written.
	waitingRefusals = 256
	// maxLearned is how many different flows learning writes once each.
	maxLearned = 8192
)

// refusalRate is how fast lines are written: a guest causes them.
func refusalRate() allowance.Size { return allowance.Size{Burst: 500, PerSecond: 20} }

// policyOf is what a spec says of the policy; nil: all that is not refused always.
func policyOf(p *vmv1.Policy) (policy.Policy, error) {
	if p == nil {
		return policy.Open(), nil
	}
	rules, err := policy.Parse(p.Default, p.Rules, true)
	rules.Learn = p.Learn
	return rules, err
}

// SetPolicy implements vmv1connect.SupervisorHandler.
func (a api) SetPolicy(ctx context.Context, r *connect.Request[vmv1.SetPolicyRequest]) (*connect.Response[vmv1.SetPolicyResponse], error) {
	if err := a.s.setPolicy(ctx, r.Msg); err != nil {
		return nil, apierr.ToConnect(err)
	}
	return connect.NewResponse(&vmv1.SetPolicyResponse{}), nil
}

// Refusals implements vmv1connect.SupervisorHandler.
func (a api) Refusals(ctx context.Context, _ *connect.Request[vmv1.RefusalsRequest]) (*connect.Response[vmv1.RefusalsResponse], error) {
	if err := a.s.awaitStarted(ctx); err != nil {
		return nil, apierr.ToConnect(err)
	}
	counters := a.s.network.Counters()
	out := &vmv1.RefusalsResponse{Refused: map[string]uint64{}, WouldRefuse: counters.WouldRefuse}
	for reason, count := range counters.Refused {
		out.Refused[string(reason)] = count
	}
	return connect.NewResponse(out), nil
}

// awaitStarted waits until the VM is somebody's and has its network.
func (s *supervisor) awaitStarted(ctx context.Context) error {
	select {
	case <-s.started:
		return nil
	case <-s.over:
		return banger.Errorf(banger.CodeWrongState, "the VM has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// setPolicy puts a policy in force that is newer than the one that is.
func (s *supervisor) setPolicy(ctx context.Context, r *vmv1.SetPolicyRequest) error {
	rules, err := policyOf(r.Policy)
	if err != nil {
		return err
	}
	if err := s.awaitStarted(ctx); err != nil {
		return err
	}
	s.ruling.Lock()
	defer s.ruling.Unlock()
	if now, _ := s.status.get(); r.Revision <= now.PolicyRevision {
		return nil
	}
	if err := fault.Point("policy.apply", s.vm.Info().PID); err != nil {
		return err
	}
	s.network.SetPolicy(r.Nat, rules)
	s.status.update(func(status *vmv1.StatusResponse) { status.PolicyRevision = r.Revision })
	return nil
}

// refusals is the log of what the policy refused. Whoever records one does not wait
// for the disk; what comes too fast is counted and left out.
type refusals struct {
	file    *logfile.File
	lines   chan []byte
	written chan struct{}

	mu      sync.Mutex
	closed  bool
	left    allowance.Bucket
	leftOut int64
	learned map[policy.Entry]bool
}

func openRefusals(path string) (*refusals, error) {
	file, err := logfile.Open(path, maxPolicyLog)
	if err != nil {
		return nil, err
	}
	r := &refusals{
		file: file, lines: make(chan []byte, waitingRefusals), written: make(chan struct{}),
		left: allowance.New(refusalRate(), time.Now()), learned: map[policy.Entry]bool{},
	}
	go func() {
		defer close(r.written)
		for line := range r.lines {
			_, _ = r.file.Write(line) // a log that cannot be written stops no VM
		}
	}()
	return r, nil
}

// record takes one refusal. One that comes when the log is closed is lost.
func (r *refusals) record(f policy.Flow, v policy.Verdict) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	entry := policy.NewEntry(f, v, now)
	if v.WouldRefuse && r.known(entry) {
		return
	}
	if !r.left.Take(1, now) || len(r.lines) == cap(r.lines) {
		r.leftOut++
		return
	}
	entry.LeftOut, r.leftOut = r.leftOut, 0
	r.lines <- entry.Line() // there is room: only who holds the lock sends
}

// known reports whether learning has noted such a flow already: a job that makes
// the same connection a thousand times teaches no more than one.
func (r *refusals) known(e policy.Entry) bool {
	e.Time, e.LeftOut = time.Time{}, 0
	if e.Name != "" {
		e.Address = netip.Addr{} // a name may have many
	}
	if r.learned[e] {
		return true
	}
	if len(r.learned) >= maxLearned {
		clear(r.learned)
	}
	r.learned[e] = true
	return false
}

// close writes what waits.
func (r *refusals) close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	close(r.lines) // only who has seen that it is not closed sends
	<-r.written
	return r.file.Close()
}
