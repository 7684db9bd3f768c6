package guestexec

import (
	"io"
	"math"
	"testing"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/trace"
)

// TestHostileTimes: what an agent says of its clock changes nothing of when its
// spans are: within the command.
func TestHostileTimes(t *testing.T) {
	for _, lie := range []int64{0, -1, 1, math.MinInt64, math.MaxInt64} {
		r := trace.NewRecorder("banger", 100)
		before := trace.Now()
		reply := append(frame(t, stream.Started, &agentv1.ExecStarted{ReceivedNs: lie, SentNs: -lie}),
			frame(t, stream.Exit, &agentv1.ExecExit{EndedNs: lie, SentNs: 7})...)
		_, err := Run(trace.With(t.Context(), r), scripted(t, reply), Command{Argv: []string{"x"}, Stdout: io.Discard, Stderr: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		after, spans := trace.Now(), r.Close()
		if len(spans) != 6 {
			t.Errorf("%d spans: %v", len(spans), spans)
		}
		for _, s := range spans {
			if s.Start < before || s.End < s.Start || s.End > after {
				t.Errorf("%d: a span that cannot be: %v", lie, s)
			}
		}
	}
}
