package trace

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
)

// event is one of the Trace Event Format, as Perfetto and Chrome read it.
type event struct {
	Name  string         `json:"name"`
	Phase string         `json:"ph"`
	TS    float64        `json:"ts"` // microseconds
	Dur   float64        `json:"dur"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	Args  map[string]any `json:"args,omitempty"`
}

// owner is a process in the file.
type owner struct {
	process string
	pid     int
}

// firstUnknown numbers the processes that are not the host's: above every pid.
const firstUnknown = 1 << 23

// File is the trace of what happened from since on, in nanoseconds, which is the
// time 0 of the file: a JSON array of one span in a line. A span that came home
// twice is in it once. Spans of one process that overlap, without one being a
// part of the other, are put on threads of their own, as a viewer needs it.
func File(spans []Span, since int64) ([]byte, error) {
	spans = arrange(spans, since)
	var events []event
	byOwner := map[owner][]*lane{}
	pids := map[owner]int{}
	for _, s := range spans {
		who := owner{s.Process, s.PID}
		pid, known := pids[who]
		if !known {
			if pid = s.PID; pid == 0 {
				pid = firstUnknown + len(pids)
			}
			events = append(events, named("process_name", pid, 0, "name", s.Process),
				named("process_sort_index", pid, 0, "sort_index", len(pids)))
			pids[who] = pid
		}
		tid := place(byOwner, who, s)
		events = append(events, event{
			Name: s.Name, Phase: "X", PID: pid, TID: pid + tid,
			TS: micros(s.Start - since), Dur: micros(s.End - s.Start),
		})
	}
	return encodeLines(events)
}

// arrange sorts the spans, the longer of two that begin together first, and
// leaves out what was over before since.
func arrange(spans []Span, since int64) []Span {
	var kept []Span
	for _, s := range spans {
		if s.End < since {
			continue
		}
		s.Start = max(s.Start, since)
		kept = append(kept, s)
	}
	slices.SortFunc(kept, func(a, b Span) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(b.End, a.End), cmp.Compare(a.Process, b.Process),
			cmp.Compare(a.PID, b.PID), cmp.Compare(a.Name, b.Name))
	})
	return slices.Compact(kept)
}

// lane is a thread: the ends of the spans that are open on it, outermost first.
type lane struct{ open []int64 }

// takes opens a span on the lane, if it lies within the innermost open one.
func (l *lane) takes(s Span) bool {
	for len(l.open) > 0 && l.open[len(l.open)-1] <= s.Start {
		l.open = l.open[:len(l.open)-1]
	}
	if len(l.open) > 0 && s.End > l.open[len(l.open)-1] {
		return false
	}
	l.open = append(l.open, s.End)
	return true
}

// place finds the lane of a span; spans come in the order of their starts.
func place(lanes map[owner][]*lane, who owner, s Span) int {
	for i, l := range lanes[who] {
		if l.takes(s) {
			return i
		}
	}
	lanes[who] = append(lanes[who], &lane{open: []int64{s.End}})
	return len(lanes[who]) - 1
}

func named(what string, pid, tid int, key string, value any) event {
	return event{Name: what, Phase: "M", PID: pid, TID: tid, Args: map[string]any{key: value}}
}

func micros(ns int64) float64 { return float64(ns) / 1000 }

// encodeLines writes a JSON array with one event in a line.
func encodeLines(events []event) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString("[")
	for i, e := range events {
		line, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(line)
	}
	out.WriteString("\n]\n")
	return out.Bytes(), nil
}
