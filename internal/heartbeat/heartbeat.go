// Package heartbeat passes the progress of long work on and repeats its last
// word, so that nothing is silent for more than two seconds: neither a wait for
// another process nor a slow disk.
package heartbeat

import (
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
)

// Interval is how often the last word is repeated.
const Interval = time.Second

// Reporter passes on the progress of one stage, one message at a time.
type Reporter struct {
	stage   string
	to      banger.ProgressFunc
	start   time.Time
	stopped chan struct{}
	beaten  chan struct{}

	mu   sync.Mutex
	last banger.Progress
	said bool
}

// Start begins a stage. Finish must follow.
func Start(stage string, to banger.ProgressFunc) *Reporter {
	r := &Reporter{
		stage: stage, to: to, start: time.Now(),
		stopped: make(chan struct{}), beaten: make(chan struct{}),
	}
	go r.beat()
	return r
}

func (r *Reporter) beat() {
	defer close(r.beaten)
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-r.stopped:
			return
		case <-tick.C:
			r.mu.Lock()
			if r.said {
				r.emit()
			}
			r.mu.Unlock()
		}
	}
}

// Report passes p on. Its stage and elapsed time are filled in.
func (r *Reporter) Report(p banger.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.said = p, true
	r.emit()
}

// Finish ends the stage and, if its work is done, says so. Nothing is reported
// after it.
func (r *Reporter) Finish(done bool) {
	close(r.stopped)
	<-r.beaten
	if done {
		r.Report(banger.Progress{Finished: true})
	}
}

// emit is called with the lock held, so that what is shown never goes back.
func (r *Reporter) emit() {
	r.last.Stage, r.last.Elapsed = r.stage, time.Since(r.start)
	r.to(r.last)
}
