// Package trace records what a command waits for: spans of time in every
// process that works for it, on one clock.
//
// A Recorder travels in a context. Where there is none, Begin costs the look
// into the context and nothing else. Spans come home with the answers to calls
// (package tracerpc), and are written for a viewer of Chrome traces by File.
//
// The clock is the host's CLOCK_MONOTONIC, which all its processes share. The
// times of a guest are mapped to it by Foreign.
package trace

import (
	"context"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Span is something that took time.
type Span struct {
	// Process and PID are who it was; the guest's agent has the pid of no host
	// process, and gives 0.
	Process string
	PID     int
	Name    string
	// Start and End are in nanoseconds of the host's CLOCK_MONOTONIC.
	Start, End int64
}

// Now is the present time of the host's CLOCK_MONOTONIC, in nanoseconds.
func Now() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0 // Linux has this clock
	}
	return now.Nano()
}

// Recorder keeps the latest spans, up to a limit. Its methods may be called from
// any goroutine; those of a nil Recorder do nothing.
type Recorder struct {
	process string
	limit   int

	mu    sync.Mutex
	spans []Span
	next  int // the oldest, once there are as many as the limit
	over  bool
}

// NewRecorder returns a recorder for this process, by the name that it has in a
// trace, for at most limit spans.
func NewRecorder(process string, limit int) *Recorder {
	return &Recorder{process: process, limit: limit}
}

// Add keeps spans, in place of the oldest if there are too many.
func (r *Recorder) Add(spans ...Span) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	for _, s := range spans {
		if len(r.spans) < r.limit {
			r.spans = append(r.spans, s)
			continue
		}
		r.spans[r.next] = s
		r.next = (r.next + 1) % r.limit
	}
}

// Spans returns a copy of what is kept.
func (r *Recorder) Spans() []Span {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Close returns what is kept. Nothing is kept from then on: what outlives a call
// must not grow its trace.
func (r *Recorder) Close() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans := r.spans
	r.spans, r.over = nil, true
	return spans
}

// Mark is a span that has begun.
type Mark struct {
	recorder *Recorder
	span     Span
}

// Begin begins a span of this process.
func (r *Recorder) Begin(name string) Mark {
	if r == nil {
		return Mark{}
	}
	return r.BeginOf(r.process, os.Getpid(), name)
}

// BeginOf begins a span of another process that this one looks after.
func (r *Recorder) BeginOf(process string, pid int, name string) Mark {
	if r == nil {
		return Mark{}
	}
	return Mark{r, Span{Process: process, PID: pid, Name: name, Start: Now()}}
}

// End ends the span.
func (m Mark) End() {
	if m.recorder == nil {
		return
	}
	m.span.End = Now()
	m.recorder.Add(m.span)
}

// Since ends the span as one that began at start, and returns the time.
func (m Mark) Since(start int64) (now int64) {
	now = Now()
	if m.recorder != nil {
		m.span.Start, m.span.End = start, now
		m.recorder.Add(m.span)
	}
	return now
}

type key struct{}

// With returns a context that carries r; with a nil r it is ctx.
func With(ctx context.Context, r *Recorder) context.Context {
	if r == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, r)
}

// From returns the recorder of ctx, or nil.
func From(ctx context.Context) *Recorder {
	r, _ := ctx.Value(key{}).(*Recorder)
	return r
}

// Begin begins a span of this process, if ctx carries a recorder.
func Begin(ctx context.Context, name string) Mark { return From(ctx).Begin(name) }

// Do does work as a span.
func Do(ctx context.Context, name string, work func() error) error {
	mark := Begin(ctx, name)
	defer mark.End()
	return work()
}
