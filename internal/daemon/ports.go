package daemon

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

// portsTime bounds the wait for a guest to say what listens in it, where the
// request does not say.
const portsTime = 10 * time.Second

// probeTime bounds what a supervisor takes to ask the ports what they speak, which
// it bounds itself: many at once, each a few seconds.
const probeTime = 2 * time.Minute

// ports asks the supervisor of a running VM what listens in it, and the successor
// of one that crashes meanwhile.
func (d *Daemon) ports(ctx context.Context, req *bangerv1.ListPortsRequest) (*bangerv1.ListPortsResponse, error) {
	end := time.Now().Add(or(time.Duration(max(req.TimeoutMs, 0))*time.Millisecond, portsTime))
	for {
		m, err := d.reach(ctx, req.Ref, max(time.Until(end), 0).Round(time.Millisecond), false)
		if err != nil {
			return nil, err
		}
		answer, now, err := m.askPorts(ctx, req.Probe, max(time.Until(end), time.Second))
		switch {
		case err == nil:
			return portsMessage(m, answer), nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case connect.CodeOf(err) == connect.CodeUnimplemented:
			return nil, m.errorf(banger.CodeWrongState, "was started by an older banger, which knows nothing of ports").
				WithHint("banger vm restart %s", now.rec.Name)
		case time.Now().After(end):
			// Not as it is: what a call of ours ended with is not how this one does.
			return nil, m.errorf(banger.CodeUnavailable, "does not say what listens in it: %v", err).
				WithHint("the same command again, or banger vm logs %s", now.rec.Name)
		}
		soon, cancel := context.WithTimeout(ctx, min(time.Until(end), lastRecheck))
		m.awaitChange(soon, now) // it is asked again in any case
		cancel()
	}
}

// askPorts asks the supervisor of this moment, which it returns with the answer.
func (m *machine) askPorts(ctx context.Context, probe bool, wait time.Duration) (*vmv1.PortsResponse, view, error) {
	now := m.look()
	if now.client == nil {
		return nil, now, errNoSupervisor
	}
	ctx, cancel := context.WithTimeout(ctx, wait+probeTime)
	defer cancel()
	answer, err := now.client.Ports(ctx, connect.NewRequest(&vmv1.PortsRequest{Probe: probe, TimeoutMs: wait.Milliseconds()}))
	if err != nil {
		return nil, now, err
	}
	return answer.Msg, now, nil
}

// errNoSupervisor: it is gone, and its successor not there yet.
var errNoSupervisor = errors.New("its supervisor is not connected")

func portsMessage(m *machine, answer *vmv1.PortsResponse) *bangerv1.ListPortsResponse {
	out := &bangerv1.ListPortsResponse{Vm: m.proto(), More: answer.More, Unknown: answer.Unknown}
	for _, p := range answer.Ports {
		out.Ports = append(out.Ports, &bangerv1.Port{
			Port: p.Port, GuestAddresses: p.GuestAddresses, HostAddress: p.HostAddress, HostPort: p.HostPort,
			Reason: p.Reason, Published: p.Published, Protocol: p.Protocol, Pid: p.Pid, Process: p.Process, Command: p.Command,
		})
	}
	return out
}
