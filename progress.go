package banger

import "time"

// Progress is one step of long work.
type Progress struct {
	// Stage is a short noun: "kernel", "image", "disks", "boot", "agent",
	// "system".
	Stage string
	// Detail says what is being done now, for a person.
	Detail string
	// Done and Total are bytes; Total 0 means unknown.
	Done, Total int64
	// Finished is set on the last message of a stage.
	Finished bool
	// Elapsed is the time spent in this stage so far.
	Elapsed time.Duration
}

// ProgressFunc takes progress. It returns quickly and may be called from any
// goroutine, never after the work's function has returned. It is never nil.
type ProgressFunc func(Progress)
