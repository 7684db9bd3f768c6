package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// inwardConn is a connection into the guest. It holds a place until Close.
type inwardConn struct {
	*gonet.TCPConn
	leave func()
}

// Close ends both directions.
func (c *inwardConn) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}

// DialContext connects to a TCP port of the guest, from the gateway's address.
// It waits until the network is attached, 20 s at most. Only the guest's address can be
// dialled. The connection also has CloseWrite. Of these connections 1,024 may
// be open at once; beyond, the error is CodeUnavailable.
func (n *Network) DialContext(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if addr.Addr() != guestAddr {
		return nil, banger.Errorf(banger.CodeUsage, "%s is not an address of the guest", addr)
	}
	inside, leave, err := n.enter(ctx, addr.Port())
	if err != nil {
		return nil, err
	}
	return &inwardConn{TCPConn: gonet.NewTCPConn(inside.queue, inside.Endpoint), leave: leave}, nil
}

// Join connects outside with a TCP port of the guest, and returns nil when both
// directions have ended, or ctx has: then both ends are reset. Ends of stream,
// resets and slowness of each side reach the other. The caller closes outside. An
// error says that the guest was not reached, as DialContext does; nothing was read
// from outside then.
func (n *Network) Join(ctx context.Context, outside *net.TCPConn, port uint16) error {
	inside, leave, err := n.enter(ctx, port)
	if err != nil {
		return err
	}
	defer leave()
	if !n.begin() {
		inside.Abort()
		return net.ErrClosed
	}
	defer n.work.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	r := &relay{
		inside: inside, outside: outside, buffers: &n.buffers, chunk: copySize,
		guest: &connection{}, // the host began it: no policy hears it
	}
	r.run(ctx)
	return nil
}

// enter connects to the guest and takes a place for the connection, which leave
// gives back.
func (n *Network) enter(ctx context.Context, port uint16) (inside endpoint, leave func(), err error) {
	if !n.begin() {
		return endpoint{}, nil, net.ErrClosed
	}
	defer n.work.Done()
	leave = sync.OnceFunc(func() { n.inward.Add(-1) })
	if n.inward.Add(1) > maxInward {
		leave()
		return endpoint{}, nil, banger.Errorf(banger.CodeUnavailable, "more than %d connections into the guest", maxInward).
			WithHint("close some of them")
	}
	if inside, err = n.dialGuest(ctx, port); err != nil {
		leave()
		addr := net.TCPAddrFromAddrPort(netip.AddrPortFrom(guestAddr, port))
		return endpoint{}, nil, &net.OpError{Op: "dial", Net: "tcp", Addr: addr, Err: err}
	}
	return inside, leave, nil
}

// dialGuest ends early with ctx's cause, or net.ErrClosed when the network is
// closed.
func (n *Network) dialGuest(ctx context.Context, port uint16) (endpoint, error) {
	ctx, end := context.WithTimeout(ctx, dialTimeout)
	defer end()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.ctx, func() { cancel(net.ErrClosed) })()
	if err := n.link.waitAttached(ctx); err != nil {
		return endpoint{}, err
	}
	inside, err := n.connectGuest(ctx, port)
	switch {
	case err == nil:
	case n.ctx.Err() != nil: // the stack may have noticed first
		err = net.ErrClosed
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return inside, err
}

// connectGuest makes the stack's end of a connection and waits for the handshake.
func (n *Network) connectGuest(ctx context.Context, port uint16) (_ endpoint, err error) {
	inside := endpoint{queue: new(waiter.Queue)}
	ep, failed := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, inside.queue)
	if failed != nil {
		return endpoint{}, errors.New(failed.String())
	}
	inside.Endpoint = ep
	defer func() {
		if err != nil {
			ep.Abort()
		}
	}()
	if err := keepAlive(ep); err != nil {
		return endpoint{}, err
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	inside.queue.EventRegister(&entry)
	defer inside.queue.EventUnregister(&entry)
	failed = ep.Connect(tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(guestAddr.As4()), Port: port})
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		select {
		case <-connected:
			failed = ep.LastError()
		case <-ctx.Done():
			return endpoint{}, context.Cause(ctx)
		}
	}
	if failed != nil {
		return endpoint{}, errors.New(failed.String())
	}
	return inside, nil
}
