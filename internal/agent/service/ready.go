package service

import (
	"sync"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
)

// systemState is how the init system has settled.
type systemState struct {
	word   string
	failed []string
}

// readiness is what Events tells.
type readiness struct {
	mu      sync.Mutex
	event   *agentv1.Event
	changed chan struct{}
}

func newReadiness() *readiness {
	return &readiness{
		event:   &agentv1.Event{Ready: string(banger.GradeAgent)},
		changed: make(chan struct{}),
	}
}

// present returns the event of now, and a channel that is closed at the next.
func (r *readiness) present() (*agentv1.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.event, r.changed
}

// reach notes that the system has settled.
func (r *readiness) reach(state systemState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.event = &agentv1.Event{
		Ready:       string(banger.GradeSystem),
		SystemState: state.word,
		FailedUnits: state.failed,
	}
	close(r.changed)
	r.changed = make(chan struct{})
}
