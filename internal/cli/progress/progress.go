// Package progress shows long work on stderr: a live line with a bar on a
// terminal, plain lines elsewhere, JSON lines for programs. Whatever the form,
// it is never silent for more than two seconds while work goes on.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
)

// Form is how progress is shown.
type Form string

// The forms. Silent shows nothing.
const (
	Live   Form = "live"
	Plain  Form = "plain"
	JSON   Form = "json"
	Silent Form = "silent"
)

const (
	// heartbeat is the longest silence.
	heartbeat = 2 * time.Second
	// redraw is the period of a live line.
	redraw = 125 * time.Millisecond
	// worthALine is how long a stage takes to be mentioned once it is done.
	worthALine = 100 * time.Millisecond
	// jsonPeriod bounds how often one stage is reported to a program.
	jsonPeriod = 200 * time.Millisecond
)

// Reporter shows the progress of one piece of work. Its methods may be called
// from any goroutine.
type Reporter struct {
	w     io.Writer
	form  Form
	label string // before every line, if not empty
	width func() int
	now   func() time.Time

	mu      sync.Mutex
	stages  map[string]*stage
	order   []string
	drawn   bool // a live line stands on the terminal
	spoke   time.Time
	stop    chan struct{}
	painter sync.WaitGroup
}

// stage is one step of the work.
type stage struct {
	banger.Progress
	began     time.Time
	firstDone int64 // bytes at the first report: a resumed download
	shown     time.Time
}

// New starts to show work on w. label, if not empty, says which of several
// pieces of work it is. width is the width of the terminal, for Live. The
// caller calls Close.
func New(w io.Writer, form Form, label string, width func() int) *Reporter {
	r := &Reporter{w: w, form: form, label: label, width: width, now: time.Now,
		stages: map[string]*stage{}, stop: make(chan struct{})}
	r.spoke = r.now()
	if form != Silent {
		r.painter.Go(r.paint)
	}
	return r
}

// paint keeps the live line moving, or the heartbeat of the other forms.
func (r *Reporter) paint() {
	period := heartbeat / 4
	if r.form == Live {
		period = redraw
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
			r.mu.Lock()
			r.beat()
			r.mu.Unlock()
		}
	}
}

// beat draws the live line, or says that work goes on if all was silent.
func (r *Reporter) beat() {
	if r.form == Live {
		r.draw()
		return
	}
	if r.now().Sub(r.spoke) < heartbeat-heartbeat/8 {
		return
	}
	s := r.current()
	if r.form == JSON {
		r.json(s)
		return
	}
	r.line(s.describe(r.now()))
}

// current is the stage that began last and is not finished; work that has not
// reported yet has one too.
func (r *Reporter) current() *stage {
	for i := len(r.order) - 1; i >= 0; i-- {
		if s := r.stages[r.order[i]]; !s.Finished {
			return s
		}
	}
	return &stage{Progress: banger.Progress{Stage: "waiting"}, began: r.spoke}
}

// Update takes one report.
func (r *Reporter) Update(p banger.Progress) {
	if r.form == Silent {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stages[p.Stage]
	if s == nil || s.Finished {
		s = &stage{began: r.now().Add(-p.Elapsed), firstDone: p.Done}
		if r.stages[p.Stage] == nil {
			r.order = append(r.order, p.Stage)
		}
		r.stages[p.Stage] = s
	}
	if p.Detail == "" {
		p.Detail = s.Detail
	}
	s.Progress = p
	switch {
	case r.form == JSON:
		if p.Finished || r.now().Sub(s.shown) >= jsonPeriod {
			r.json(s)
		}
	case p.Finished && p.Elapsed >= worthALine:
		r.line(fmt.Sprintf("%-8s %s", p.Stage, seconds(p.Elapsed)))
	}
}

// Message writes a line of its own, above a live line. It is a no-op for JSON,
// whose readers get Event.
func (r *Reporter) Message(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.form == Live || r.form == Plain {
		r.line(text)
	}
}

// Event writes v as a JSON line, in JSON form only.
func (r *Reporter) Event(v any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.form == JSON {
		r.spoke = r.now()
		_ = json.NewEncoder(r.w).Encode(v) // stderr is gone: nobody is left to tell
	}
}

// Close takes the live line away and ends.
func (r *Reporter) Close() {
	if r.form == Silent {
		return
	}
	close(r.stop)
	r.painter.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
}

func (r *Reporter) line(text string) {
	r.clear()
	if r.label != "" {
		text = r.label + ": " + text
	}
	fmt.Fprintln(r.w, text)
	r.spoke = r.now()
}

// report is one JSON line of progress.
type report struct {
	Label     string `json:"vm,omitempty"`
	Stage     string `json:"stage"`
	Detail    string `json:"detail,omitempty"`
	Done      int64  `json:"done,omitempty"`
	Total     int64  `json:"total,omitempty"`
	Finished  bool   `json:"finished"`
	ElapsedMS int64  `json:"elapsed_ms"`
}

func (r *Reporter) json(s *stage) {
	s.shown, r.spoke = r.now(), r.now()
	elapsed := s.Elapsed
	if !s.Finished {
		elapsed = r.now().Sub(s.began)
	}
	_ = json.NewEncoder(r.w).Encode(report{r.label, s.Stage, s.Detail, s.Done, s.Total, s.Finished, elapsed.Milliseconds()})
}
