package daemon

import (
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/trace"
)

// reporter sends the progress of one request to its client. A client that has
// left is no reason to stop: the request's context says so.
type reporter struct {
	mu    sync.Mutex
	send  func(*bangerv1.VMProgress) error
	stage banger.Progress
	began time.Time
	// recorder is that of the request, if it is traced: stages are spans.
	recorder *trace.Recorder
}

func (r *reporter) event(e *bangerv1.VMProgress) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.send(e)
}

// progress passes on what a part of the work reports.
func (r *reporter) progress(p banger.Progress) {
	r.event(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Progress{Progress: &bangerv1.Progress{
		Stage: p.Stage, Detail: p.Detail, Done: p.Done, Total: p.Total,
		Finished: p.Finished, ElapsedMs: p.Elapsed.Milliseconds(),
	}}})
}

// begin starts a stage of our own; the returned function finishes it.
func (r *reporter) begin(stage, detail string) (done func()) {
	r.mu.Lock()
	r.stage, r.began = banger.Progress{Stage: stage, Detail: detail}, time.Now()
	r.mu.Unlock()
	r.beat()
	mark := r.recorder.Begin("stage " + stage)
	return func() {
		mark.End()
		r.mu.Lock()
		r.stage.Finished = true
		r.mu.Unlock()
		r.beat()
	}
}

// during does work as a stage of our own, and says every heartbeat that it goes
// on.
func (r *reporter) during(stage, detail string, work func() error) error {
	done, ended := r.begin(stage, detail), make(chan struct{})
	var beats sync.WaitGroup
	beats.Go(func() {
		ticker := time.NewTicker(heartbeat)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				r.beat()
			case <-ended:
				return
			}
		}
	})
	err := work()
	close(ended)
	beats.Wait()
	if err == nil {
		done()
	}
	return err
}

// beat repeats the present stage with the time it has taken.
func (r *reporter) beat() {
	r.mu.Lock()
	p := r.stage
	p.Elapsed = time.Since(r.began)
	r.mu.Unlock()
	r.progress(p)
}

func (r *reporter) spec(vm *bangerv1.VM) error {
	return r.event(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Spec{Spec: vm}})
}

func (r *reporter) vm(vm *bangerv1.VM) error {
	return r.event(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Vm{Vm: vm}})
}
