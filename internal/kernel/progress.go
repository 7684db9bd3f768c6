package kernel

import (
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
)

// heartbeat is how often the last word is repeated: nothing is silent for more
// than two seconds, neither a wait for another process nor a slow disk.
const heartbeat = time.Second

// reporter passes progress on, one message at a time.
type reporter struct {
	to      banger.ProgressFunc
	start   time.Time
	stopped chan struct{}
	beaten  chan struct{}

	mu   sync.Mutex
	last banger.Progress
}

// startReporter begins the heartbeat. finish must follow.
func startReporter(to banger.ProgressFunc) *reporter {
	r := &reporter{to: to, start: time.Now(), stopped: make(chan struct{}), beaten: make(chan struct{})}
	go r.beat()
	return r
}

func (r *reporter) beat() {
	defer close(r.beaten)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case <-tick.C:
			r.mu.Lock()
			r.emit()
			r.mu.Unlock()
		}
	}
}

func (r *reporter) report(p banger.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = p
	r.emit()
}

// finish ends the heartbeat and, if the work is done, says so: nothing is
// reported after it.
func (r *reporter) finish(done bool) {
	close(r.stopped)
	<-r.beaten
	if done {
		r.report(banger.Progress{Finished: true})
	}
}

// emit is called with the lock held.
func (r *reporter) emit() {
	r.last.Stage, r.last.Elapsed = stage, time.Since(r.start)
	r.to(r.last)
}
