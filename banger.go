// Package banger holds the nouns of the product: the states of a VM, the codes
// of its errors, the syntax of names and sizes. Every other package may import
// it; it imports only the standard library.
package banger

// State is where a VM is in its life.
//
//	creating ─→ created ─→ running ⇄ paused
//	    │          ↑          │        │
//	    │          │          ↓        ↓
//	    │        stopped ←─ stopping ←─┘
//	    ↓                     │
//	  (gone) ←─ deleting ←────┴── error, created, stopped
//
// A create that fails or is cancelled leaves nothing; a start that fails leaves
// error, with the reason, and keeps everything for inspection.
type State string

// The states of a VM.
const (
	StateCreating State = "creating"
	StateCreated  State = "created"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopping State = "stopping"
	StateStopped  State = "stopped"
	StateError    State = "error"
	StateDeleting State = "deleting"
)

// Active reports whether a VM in this state has, or may have, a process.
func (s State) Active() bool {
	switch s {
	case StateRunning, StatePaused, StateStopping, StateCreating:
		return true
	}
	return false
}

// Grade is how ready a running guest is.
type Grade string

// The grades of readiness, in order.
const (
	// GradeNone: the agent has not answered.
	GradeNone Grade = ""
	// GradeAgent: the agent answers and can run commands.
	GradeAgent Grade = "agent"
	// GradeSystem: the init system has settled, or there is none.
	GradeSystem Grade = "system"
)

// Reached reports whether g is at least want.
func (g Grade) Reached(want Grade) bool { return g.rank() >= want.rank() }

func (g Grade) rank() int {
	switch g {
	case GradeSystem:
		return 2
	case GradeAgent:
		return 1
	}
	return 0
}

// Origin says where a default value came from.
type Origin string

// The origins of a default.
const (
	OriginConfig  Origin = "config"
	OriginAuto    Origin = "auto"
	OriginBuiltin Origin = "builtin"
)
