package network

import (
	"context"
	"net"
	"net/netip"
	"sync"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
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
// It waits until the network is attached. Only the guest's address can be
// dialled. The connection also has CloseWrite. Of these connections 1,024 may
// be open at once; beyond, the error is CodeUnavailable.
func (n *Network) DialContext(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	if addr.Addr() != guestAddr {
		return nil, banger.Errorf(banger.CodeUsage, "%s is not an address of the guest", addr)
	}
	if !n.begin() {
		return nil, net.ErrClosed
	}
	defer n.work.Done()
	leave := sync.OnceFunc(func() { n.inward.Add(-1) })
	if n.inward.Add(1) > maxInward {
		leave()
		return nil, banger.Errorf(banger.CodeUnavailable, "more than %d connections into the guest", maxInward).
			WithHint("close some of them")
	}
	conn, err := n.dialGuest(ctx, addr)
	if err != nil {
		leave()
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	return &inwardConn{TCPConn: conn, leave: leave}, nil
}

// dialGuest ends early with ctx's cause, or net.ErrClosed when the network is
// closed.
func (n *Network) dialGuest(ctx context.Context, addr netip.AddrPort) (*gonet.TCPConn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.ctx, func() { cancel(net.ErrClosed) })()
	if err := n.link.waitAttached(ctx); err != nil {
		return nil, err
	}
	conn, err := gonet.DialContextTCP(ctx, n.stack, tcpip.FullAddress{
		NIC: nicID, Addr: tcpip.AddrFrom4(guestAddr.As4()), Port: addr.Port(),
	}, ipv4.ProtocolNumber)
	switch {
	case err == nil:
	case n.ctx.Err() != nil: // the stack may have noticed first
		err = net.ErrClosed
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	return conn, err
}
