package daemon

import (
	"context"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

// portsTime bounds the wait for a guest to say what listens in it, where the
// request does not say.
const portsTime = 10 * time.Second

// ports asks the supervisor of a running VM what listens in it.
func (d *Daemon) ports(ctx context.Context, req *bangerv1.ListPortsRequest) (*bangerv1.ListPortsResponse, error) {
	timeout := or(time.Duration(max(req.TimeoutMs, 0))*time.Millisecond, portsTime)
	begun := time.Now()
	m, err := d.reach(ctx, req.Ref, timeout)
	if err != nil {
		return nil, err
	}
	now := m.look()
	if now.client == nil {
		return nil, m.notRunning()
	}
	left := max(timeout-time.Since(begun), time.Second)
	answer, err := now.client.Ports(ctx, connect.NewRequest(&vmv1.PortsRequest{Probe: req.Probe, TimeoutMs: left.Milliseconds()}))
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case connect.CodeOf(err) == connect.CodeUnimplemented:
		return nil, m.errorf(banger.CodeWrongState, "was started by an older banger, which knows nothing of ports").
			WithHint("banger vm restart %s", now.rec.Name)
	case err != nil:
		return nil, m.errorf(banger.CodeUnavailable, "does not say what listens in it: %w", err).
			WithHint("the same command again, or banger vm logs %s", now.rec.Name)
	}
	out := &bangerv1.ListPortsResponse{Vm: m.proto(), More: answer.Msg.More, Unknown: answer.Msg.Unknown}
	for _, p := range answer.Msg.Ports {
		out.Ports = append(out.Ports, &bangerv1.Port{
			Port: p.Port, GuestAddresses: p.GuestAddresses, HostAddress: p.HostAddress, HostPort: p.HostPort,
			Reason: p.Reason, Published: p.Published, Protocol: p.Protocol, Pid: p.Pid, Process: p.Process, Command: p.Command,
		})
	}
	return out, nil
}
