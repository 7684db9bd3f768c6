package daemon

import (
	"context"

	"connectrpc.com/connect"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/trace"
)

// traced is ctx with the recorder of the operation that is under way: for work
// which outlives its request's context, and for the follower's.
func (m *machine) traced(ctx context.Context) context.Context {
	m.mu.Lock()
	defer m.mu.Unlock()
	return trace.With(ctx, m.recorder)
}

// record makes the machine's work part of the trace of ctx, if there is one.
func (m *machine) record(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.recorder = trace.From(ctx)
}

// askSpans fetches what the VM's supervisor has recorded, if ctx is traced: it
// comes with the answer to any call.
func (m *machine) askSpans(ctx context.Context) {
	client := m.look().client
	if client == nil || trace.From(ctx) == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, spansWithin)
	defer cancel()
	if _, err := client.Status(ctx, connect.NewRequest(&vmv1.StatusRequest{})); err != nil {
		m.d.log.Info("a trace lacks a supervisor's part", "vm", m.id, "error", err)
	}
}
