package daemon

import (
	"context"
	"sync"
	"time"
)

// alarms do something once for each VM, at a time of its own. One timer runs for all
// of them, and nothing wakes in between.
//
// Their clock is the monotonic one from when an alarm is first seen: a wall clock that
// is set while the daemon runs makes none ring early. The wall clock counts while no
// daemon runs.
type alarms struct {
	// list says when whose alarm rings: wall clock times by id.
	list func() map[string]time.Time
	// ring does what is to be done. One that fails is called again after retry, for
	// as long as list has the id.
	ring  func(id string) error
	retry time.Duration
	// changed holds one: list says something else.
	changed chan struct{}
	// set and rung belong to run. set holds all that list said.
	set  map[string]alarm
	rung chan rung
}

// alarm is one that was seen: at is what list said, due when it rings by the monotonic
// clock, and ringing is true until that has been done.
type alarm struct {
	at, due time.Time
	ringing bool
}

// rung is how it went.
type rung struct {
	id  string
	err error
}

func newAlarms(retry time.Duration, list func() map[string]time.Time, ring func(string) error) *alarms {
	return &alarms{
		list: list, ring: ring, retry: retry, changed: make(chan struct{}, 1),
		set: map[string]alarm{}, rung: make(chan rung),
	}
}

// look has run read the list again. It may be called from anywhere and does not wait.
func (a *alarms) look() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// run rings the alarms until ctx ends, and waits then for those that ring.
func (a *alarms) run(ctx context.Context) {
	var ringing sync.WaitGroup
	defer ringing.Wait()
	for {
		a.read(time.Now())
		due, wait := a.due(time.Now())
		for _, id := range due {
			ringing.Go(func() {
				done := rung{id, a.ring(id)}
				select {
				case a.rung <- done:
				case <-ctx.Done():
				}
			})
		}
		if !a.await(ctx, wait) {
			return
		}
	}
}

// read takes up what the list says now.
func (a *alarms) read(now time.Time) {
	list := a.list()
	for id, known := range a.set {
		if _, there := list[id]; !there && !known.ringing {
			delete(a.set, id)
		}
	}
	for id, at := range list {
		if known, there := a.set[id]; there && (known.ringing || known.at.Equal(at)) {
			continue
		}
		// The difference of two wall clocks, on the monotonic one.
		a.set[id] = alarm{at: at, due: now.Add(at.Round(0).Sub(now.Round(0)))}
	}
}

// due returns whose alarms ring now, and how long it is to the next one; negative:
// there is none.
func (a *alarms) due(now time.Time) (due []string, wait time.Duration) {
	wait = -1
	for id, known := range a.set {
		switch left := known.due.Sub(now); {
		case known.ringing:
		case left <= 0:
			known.ringing = true
			a.set[id] = known
			due = append(due, id)
		case wait < 0 || left < wait:
			wait = left
		}
	}
	return due, wait
}

// await waits until there is something to do; false: ctx has ended.
func (a *alarms) await(ctx context.Context, wait time.Duration) bool {
	var next <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		next = timer.C
	}
	select {
	case <-next:
	case <-a.changed:
	case done := <-a.rung:
		// Whatever the list says after a success is new.
		known := a.set[done.id]
		delete(a.set, done.id)
		if done.err != nil {
			a.set[done.id] = alarm{at: known.at, due: time.Now().Add(a.retry)}
		}
	case <-ctx.Done():
		return false
	}
	return true
}
