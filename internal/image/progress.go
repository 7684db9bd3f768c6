package image

import (
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/image/recipe"
)

// stage is the name of all progress from here.
const stage = "image"

// heartbeat is how often the last word is repeated: nothing is silent for more
// than two seconds.
const heartbeat = time.Second

// reporter turns what a build says into progress that never falls silent.
type reporter struct {
	to      banger.ProgressFunc
	started time.Time
	stopped chan struct{}
	beaten  chan struct{}

	mu   sync.Mutex
	last recipe.Status
}

// startReporter begins the heartbeat. stop must follow.
func startReporter(to banger.ProgressFunc) *reporter {
	r := &reporter{to: to, started: time.Now(), stopped: make(chan struct{}), beaten: make(chan struct{})}
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
			if r.last.Detail != "" {
				r.emit(false)
			}
			r.mu.Unlock()
		}
	}
}

// report passes a state on.
func (r *reporter) report(s recipe.Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = s
	r.emit(false)
}

// stop ends the heartbeat; with done it says that the stage is over.
func (r *reporter) stop(done bool) {
	close(r.stopped)
	<-r.beaten
	if done {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.emit(true)
	}
}

// emit is called with the lock held, so that what is shown never goes back.
func (r *reporter) emit(finished bool) {
	r.to(banger.Progress{
		Stage:    stage,
		Detail:   r.last.Detail,
		Done:     r.last.Done,
		Total:    r.last.Total,
		Finished: finished,
		Elapsed:  time.Since(r.started),
	})
}
