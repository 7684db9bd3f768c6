package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"connectrpc.com/connect"
	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/apierr"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/banger-dev/banger/internal/ports"
)

const (
	// listenersAfter is when a guest that has just started is asked for its
	// listening sockets: its first command has the processor to itself. Who asks
	// for the ports does not wait for that.
	listenersAfter = time.Second
	// portsTime bounds the wait for the guest's first word, where nobody says.
	portsTime = 5 * time.Second
	// doorTime bounds a connection to the guest's own loopback, by its agent.
	doorTime = 15 * time.Second
)

// openPorts opens what is published, and gets ready for what the guest will
// listen on.
func (s *supervisor) openPorts() {
	o := ports.Options{Name: s.spec.Name + banger.NameSuffix, Join: s.joinPort, Dial: s.dialPort, Log: s.log}
	if addr, err := netip.ParseAddr(s.spec.Address); err == nil && addr.Is4() && addr.IsLoopback() {
		o.Address = addr
	} else if s.spec.Address != "" {
		s.log.Error("the VM's address is no loopback address", "address", s.spec.Address)
	}
	for _, p := range s.spec.Publish {
		addr, err := netip.ParseAddr(p.Address)
		if err != nil || p.HostPort > 65535 || p.GuestPort < 1 || p.GuestPort > 65535 {
			s.log.Error("a published port makes no sense", "port", p)
			continue
		}
		o.Publish = append(o.Publish, ports.Publish{Host: netip.AddrPortFrom(addr, uint16(p.HostPort)), Guest: uint16(p.GuestPort)})
	}
	s.ports = ports.New(o)
}

// followListeners keeps the ports as the guest's agent tells it, until ctx ends.
func (s *supervisor) followListeners(ctx context.Context) {
	if now, _ := s.status.get(); !now.Successor {
		timer := time.NewTimer(listenersAfter)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.told:
		case <-ctx.Done():
			return
		}
	}
	for retry := newBackoff(linkRetry); ; {
		begun := time.Now()
		if err := s.takeListeners(ctx); err != nil && ctx.Err() == nil {
			s.log.Debug("the guest's listening sockets are not known", "error", err)
		}
		if time.Since(begun) > settled {
			retry.reset()
		}
		if !retry.wait(ctx) {
			return
		}
	}
}

// takeListeners follows one stream of the agent until it ends.
func (s *supervisor) takeListeners(ctx context.Context) error {
	if err := s.awaitSession(ctx); err != nil {
		return err
	}
	client, done, err := s.agent(ctx)
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Listeners(ctx, &agentv1.ListenersRequest{})
	if err != nil {
		return err
	}
	for {
		said, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.ports.Set(ports.Decode(said))
	}
}

// joinPort connects conn with the guest: by its network, or by its agent's door for
// what listens where the network does not lead.
func (s *supervisor) joinPort(ctx context.Context, conn *net.TCPConn, to ports.Target) error {
	if to.Stack {
		if err := s.network.Join(ctx, conn, to.Port); err == nil || !to.Door.IsValid() || ctx.Err() != nil {
			return err
		}
	}
	guest, err := s.dialDoor(ctx, to)
	if err != nil {
		return err
	}
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	splice(conn, guest)
	return nil
}

// dialPort connects to the guest as joinPort does.
func (s *supervisor) dialPort(ctx context.Context, to ports.Target) (net.Conn, error) {
	if to.Stack {
		conn, err := s.network.DialContext(ctx, netip.AddrPortFrom(netip.MustParseAddr(banger.GuestAddress), to.Port))
		if err == nil || !to.Door.IsValid() || ctx.Err() != nil {
			return conn, err
		}
	}
	return s.dialDoor(ctx, to)
}

// dialDoor has the guest's agent connect inside the guest. Whether that worked
// shows on the connection only: one that did not is reset.
func (s *supervisor) dialDoor(ctx context.Context, to ports.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, doorTime)
	defer cancel()
	guest, err := s.dialGuest(ctx, linkwire.PortForward)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(guest, "%s\n", netip.AddrPortFrom(to.Door, to.Port)); err != nil {
		guest.Close()
		return nil, err
	}
	return guest, nil
}

// Ports implements vmv1connect.SupervisorHandler.
func (a api) Ports(ctx context.Context, r *connect.Request[vmv1.PortsRequest]) (*connect.Response[vmv1.PortsResponse], error) {
	wait := portsTime
	if r.Msg.TimeoutMs > 0 {
		wait = time.Duration(r.Msg.TimeoutMs) * time.Millisecond
	}
	bounded, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case <-a.s.started:
	case <-bounded.Done():
		return nil, apierr.ToConnect(banger.Errorf(banger.CodeWrongState, "the VM is not running yet"))
	}
	select {
	case a.s.told <- struct{}{}:
	default:
	}
	out := new(vmv1.PortsResponse)
	if err := a.s.ports.Await(bounded); err != nil {
		out.Unknown = fmt.Sprintf("the guest has not said within %s what listens in it", wait)
	}
	list, more := a.s.ports.View()
	if r.Msg.Probe {
		a.s.ports.Probe(ctx, list)
	}
	open, last := a.s.ports.Connections()
	out.More, out.Connections = more, int32(open)
	if !last.IsZero() {
		out.LastConnectionUnixMs = last.UnixMilli()
	}
	for _, p := range list {
		out.Ports = append(out.Ports, portMessage(p))
	}
	return connect.NewResponse(out), nil
}

func portMessage(p ports.Port) *vmv1.Port {
	m := &vmv1.Port{
		Port: uint32(p.Port), Reason: p.Reason, Published: p.Published, Protocol: p.Protocol,
		Pid: p.PID, Process: p.Process, Command: p.Command,
	}
	if p.Host.IsValid() {
		m.HostAddress, m.HostPort = p.Host.Addr().String(), uint32(p.Host.Port())
	}
	for _, a := range p.Addrs {
		m.GuestAddresses = append(m.GuestAddresses, a.String())
	}
	return m
}
