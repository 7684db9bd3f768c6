package supervisor

import (
	"slices"
	"sync"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"google.golang.org/protobuf/proto"
)

// The states of a supervisor, as its contract names them.
const (
	stateStarting = "starting"
	stateSpare    = "spare"
	stateRunning  = "running"
	statePaused   = "paused"
	stateStopping = "stopping"
	stateStopped  = "stopped"
)

// status is the supervisor's state, and who wants to hear of changes. It is the
// one place that a state changes in.
type status struct {
	mu      sync.Mutex
	now     *vmv1.StatusResponse
	changed chan struct{} // closed and replaced at each change
}

func newStatus(first *vmv1.StatusResponse) *status {
	return &status{now: first, changed: make(chan struct{})}
}

// get returns the present state, and a channel that is closed when it changes.
func (s *status) get() (*vmv1.StatusResponse, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return proto.CloneOf(s.now), s.changed
}

// update changes the state; a change that changes nothing wakes nobody.
func (s *status) update(change func(*vmv1.StatusResponse)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := proto.CloneOf(s.now)
	change(next)
	if proto.Equal(next, s.now) {
		return
	}
	s.now = next
	close(s.changed)
	s.changed = make(chan struct{})
}

// begin enters a state from one of the states before it, and reports whether it
// did.
func (s *status) begin(state string, before ...string) bool {
	entered := false
	s.update(func(r *vmv1.StatusResponse) {
		if slices.Contains(before, r.State) {
			r.State, entered = state, true
		}
	})
	return entered
}

// stopped enters the last state.
func (s *status) stopped(reason string, failed bool) {
	s.update(func(r *vmv1.StatusResponse) {
		r.State, r.Reason, r.Failed, r.Ready = stateStopped, reason, failed, ""
	})
}
