package trace

import (
	"encoding/json"
	"fmt"
)

// Bounds of what comes home with one answer.
const (
	// MaxSpans is how many spans one answer carries.
	MaxSpans = 1024
	// maxName and maxProcess bound the names, in bytes.
	maxName    = 120
	maxProcess = 40
	// maxWire bounds all of it, in bytes.
	maxWire = 1 << 20
)

// wireSpan is a Span as it travels.
type wireSpan struct {
	Process string `json:"p"`
	PID     int    `json:"i,omitempty"`
	Name    string `json:"n"`
	Start   int64  `json:"s"`
	End     int64  `json:"e"`
}

// Encode encodes the last MaxSpans of spans.
func Encode(spans []Span) ([]byte, error) {
	list := make([]wireSpan, 0, min(len(spans), MaxSpans))
	for _, s := range spans[max(0, len(spans)-MaxSpans):] {
		list = append(list, wireSpan(s))
	}
	return json.Marshal(list)
}

// Decode decodes what Encode made, within its bounds. A span that ends before it
// begins is an error, as is any that is too long.
func Decode(data []byte) ([]Span, error) {
	if len(data) > maxWire {
		return nil, fmt.Errorf("trace: %d bytes of spans, at most %d are taken", len(data), maxWire)
	}
	var list []wireSpan
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	if len(list) > MaxSpans {
		return nil, fmt.Errorf("trace: %d spans, at most %d are taken", len(list), MaxSpans)
	}
	spans := make([]Span, 0, len(list))
	for _, s := range list {
		if s.Start < 0 || s.End < s.Start || s.PID < 0 || len(s.Name) > maxName || len(s.Process) > maxProcess {
			return nil, fmt.Errorf("trace: a span that cannot be: %.200q", fmt.Sprint(s))
		}
		spans = append(spans, Span(s))
	}
	return spans, nil
}
