package supervisor

import (
	"context"
	"io"
	"net"
	"sync"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/containerd/ttrpc"
)

// guestServices is a guest with an agent that is ready at once, and an echo
// where processes would be.
func guestServices(m testguest.Machine) testguest.Handler {
	rest := testguest.Services(m)
	server, err := ttrpc.NewServer()
	if err != nil {
		panic(err)
	}
	agentv1.RegisterAgentService(server, guestAgent{m})
	conns := make(chan net.Conn)
	go server.Serve(context.Background(), chanListener(conns))
	return func(port uint32, conn net.Conn) {
		switch port {
		case linkwire.PortRPC:
			held := &heldConn{Conn: conn, closed: make(chan struct{})}
			conns <- held
			<-held.closed // a stream ends with its handler
		case linkwire.PortExec:
			defer conn.Close()
			io.Copy(conn, conn)
		case linkwire.PortForward: // the line that says where to, and all else, comes back
			defer conn.Close()
			io.Copy(conn, conn)
			conn.(linkwire.Stream).CloseWrite()
		default:
			rest(port, conn)
		}
	}
}

type guestAgent struct{ m testguest.Machine }

func (g guestAgent) Info(context.Context, *agentv1.InfoRequest) (*agentv1.InfoResponse, error) {
	return &agentv1.InfoResponse{Init: "none"}, nil
}

func (g guestAgent) Events(ctx context.Context, _ *agentv1.EventsRequest, out agentv1.Agent_EventsServer) error {
	out.Send(&agentv1.Event{Ready: "agent"})
	out.Send(&agentv1.Event{Ready: "system", FailedUnits: []string{"a.service"}})
	<-ctx.Done()
	return ctx.Err()
}

// Listeners is a server on the loopback of the guest.
func (g guestAgent) Listeners(ctx context.Context, _ *agentv1.ListenersRequest, out agentv1.Agent_ListenersServer) error {
	out.Send(&agentv1.ListenersResponse{Listeners: []*agentv1.Listener{
		{Address: []byte{127, 0, 0, 1}, Port: 18080, Pid: 7, Process: "server"},
	}})
	<-ctx.Done()
	return ctx.Err()
}

func (g guestAgent) Shutdown(context.Context, *agentv1.ShutdownRequest) (*agentv1.ShutdownResponse, error) {
	go g.m.PowerOff()
	return &agentv1.ShutdownResponse{}, nil
}

func (g guestAgent) Signal(context.Context, *agentv1.SignalRequest) (*agentv1.SignalResponse, error) {
	return &agentv1.SignalResponse{}, nil
}

func (g guestAgent) Grow(context.Context, *agentv1.GrowRequest) (*agentv1.GrowResponse, error) {
	return &agentv1.GrowResponse{}, nil
}

// Usage lies.
func (g guestAgent) Usage(context.Context, *agentv1.UsageRequest) (*agentv1.UsageResponse, error) {
	return &agentv1.UsageResponse{CpuMs: -5, MemoryTotalBytes: 100, MemoryAvailableBytes: 1 << 60, WorkTotalBytes: -1, WorkUsedBytes: 7, OverlayTotalBytes: 10, OverlayUsedBytes: 3}, nil
}

func (g guestAgent) Tune(context.Context, *agentv1.TuneRequest) (*agentv1.TuneResponse, error) {
	return &agentv1.TuneResponse{}, nil
}

func (g guestAgent) Warm(context.Context, *agentv1.WarmRequest) (*agentv1.WarmResponse, error) {
	return &agentv1.WarmResponse{}, nil
}

type heldConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// Read says io.EOF however the stream ended: ttrpc waits for its calls after any
// other error, and the events never end by themselves.
func (c *heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

func (c *heldConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

type chanListener chan net.Conn

func (l chanListener) Accept() (net.Conn, error) { return <-l, nil }
func (l chanListener) Close() error              { return nil }
func (l chanListener) Addr() net.Addr            { return &net.UnixAddr{Name: "guest"} }
