package guestexec

import (
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/trace"
)

// agent is the guest's end in a trace.
const agent = "banger-agent"

// times puts a command into a trace: as this end sees it, and as the agent says
// that it was. Without a recorder it does nothing.
type times struct {
	recorder *trace.Recorder
	sent     int64 // when Start was
	ran      int64 // when Started came
	agent    trace.Foreign
	answered int64 // when Started was sent, by the agent's clock
}

// send is called as Start is about to be sent.
func (t *times) send() {
	if t.recorder != nil {
		t.sent = trace.Now()
	}
}

// started takes the agent's answer to Start.
func (t *times) started(msg *agentv1.ExecStarted) {
	if t.recorder == nil {
		return
	}
	mark := t.recorder.Begin("exec: Start until Started")
	t.ran = mark.Since(t.sent)
	t.agent = trace.MapForeign(t.sent, t.ran, msg.ReceivedNs, msg.SentNs)
	t.answered = msg.SentNs
	t.recorder.Add(t.agent.Span(trace.Span{
		Process: agent, Name: "exec: start the process", Start: msg.ReceivedNs, End: msg.SentNs,
	}, t.ran))
}

// exited takes the agent's last word.
func (t *times) exited(msg *agentv1.ExecExit) {
	if t.recorder == nil {
		return
	}
	now := t.recorder.Begin("exec: Started until Exit").Since(t.ran)
	t.recorder.Add(t.agent.Span(trace.Span{
		Process: agent, Name: "exec: the process runs", Start: t.answered, End: msg.EndedNs,
	}, now), t.agent.Span(trace.Span{
		Process: agent, Name: "exec: its end until Exit is sent", Start: msg.EndedNs, End: msg.SentNs,
	}, now))
}
