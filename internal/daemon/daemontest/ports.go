package daemontest

import (
	"context"

	"connectrpc.com/connect"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

// Ports says that the guest listens on port 80, and what its spec publishes.
func (s *supervisor) Ports(_ context.Context, req *connect.Request[vmv1.PortsRequest]) (*connect.Response[vmv1.PortsResponse], error) {
	protocol := "tcp"
	if req.Msg.Probe {
		protocol = "http"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &vmv1.PortsResponse{Ports: []*vmv1.Port{
		{Port: 80, GuestAddresses: []string{"0.0.0.0"}, HostAddress: s.spec.Address, HostPort: 80, Protocol: protocol, Process: "server"},
	}}
	for _, p := range s.spec.Publish {
		out.Ports = append(out.Ports, &vmv1.Port{
			Port: p.GuestPort, HostAddress: p.Address, HostPort: p.HostPort, Published: true, Protocol: "tcp",
		})
	}
	return connect.NewResponse(out), nil
}
