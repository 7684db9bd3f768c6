package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/banger-dev/banger/internal/policy"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxTCPPending is how many connections may be between SYN and established
	// at once. A stack that allows 10 makes a guest that opens many wait for
	// retransmitted SYNs, a second each.
	maxTCPPending = 1024
	// dialTimeout bounds a connection, outside or into the guest, that nobody
	// answers.
	dialTimeout = 20 * time.Second
	// outsideKeepAlive keeps the way outside open for idle connections, and
	// finds a peer that is gone.
	outsideKeepAlive = time.Minute
	// insideKeepAlive finds connections that the guest no longer knows, after
	// a reboot of it: it answers the probe with a reset.
	insideKeepAlive = 2 * time.Minute
	// timeWait may be short: on this link no old packet turns up late.
	timeWait = 2 * time.Second
	// inwardBuffer is the size of each buffer of a connection into the guest,
	// and maxInward how many there may be.
	inwardBuffer = 256 << 10
	maxInward    = 1024
	// kernelBuffer bounds, in bytes, what the host's kernel holds in each
	// direction for a flow that got the smallest buffers: a guest with
	// thousands of flows must not fill the memory that all of the host's
	// connections share.
	kernelBuffer = 64 << 10
)

func tuneTCP(s *stack.Stack) tcpip.Error {
	sack := tcpip.TCPSACKEnabled(true)
	// Buffers have fixed sizes: those of the guest's flows come from the budget.
	moderate := tcpip.TCPModerateReceiveBufferOption(false)
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: inwardBuffer, Max: maxFlowBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: inwardBuffer, Max: maxFlowBuffer}
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	linger := tcpip.TCPLingerTimeoutOption(timeWait)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &moderate, &receive, &send, &wait, &linger} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return err
		}
	}
	return nil
}

// acceptTCP handles one SYN of the guest in a goroutine of its own: the outside
// is dialled first, so that the guest's connect tells the truth. Whatever fails
// is a reset at once.
func (n *Network) acceptTCP(request *tcp.ForwarderRequest) {
	if !n.begin() {
		request.Complete(false)
		return
	}
	defer n.work.Done()
	id := request.ID()
	dst := netip.AddrPortFrom(netipAddr(id.LocalAddress), id.LocalPort)
	if dst == netip.AddrPortFrom(gatewayAddr, dnsPort) {
		n.acceptDNS(request)
		return
	}
	size, ok := n.budget.take()
	if !ok {
		n.counters.refuse(policy.ReasonLimit)
		request.Complete(true)
		return
	}
	defer n.budget.give(size)
	n.forward(request, n.flow(policy.ProtoTCP, dst), size)
}

// forward carries a connection whose buffers have size bytes each, if the policy
// allows it.
func (n *Network) forward(request *tcp.ForwarderRequest, flow policy.Flow, size int) {
	verdict := n.decide(flow)
	if !verdict.Allow {
		request.Complete(true)
		return
	}
	outside, err := n.dialTCP(flow, size)
	if err != nil {
		n.failed(flow.Dst, err)
		request.Complete(true)
		return
	}
	defer outside.Close()
	inside, err := establish(request, size)
	if err != nil {
		return
	}
	n.counters.open.Add(1)
	defer n.counters.open.Add(-1)
	r := &relay{
		inside: inside, outside: outside, buffers: &n.buffers, chunk: min(size, copySize),
		guest: n.newConnection(flow, verdict),
	}
	n.carry(r)
}

// carry runs a connection that the policy may end at any time.
func (n *Network) carry(r *relay) {
	defer close(r.guest.done)
	ctx, cancel := context.WithCancel(n.ctx)
	defer cancel()
	r.guest.cut = cancel
	defer n.live.remove(r.guest)
	if !n.live.add(r.guest) {
		cancel()
	}
	r.run(ctx)
	r.guest.finish()
}

// dialTCP connects to the outside for a flow whose buffers have size bytes.
func (n *Network) dialTCP(flow policy.Flow, size int) (*net.TCPConn, error) {
	conn, err := n.dial(flow)
	if err != nil {
		return nil, err
	}
	outside := conn.(*net.TCPConn)
	if size <= minFlowBuffer {
		err = errors.Join(outside.SetReadBuffer(kernelBuffer), outside.SetWriteBuffer(kernelBuffer))
	}
	if err != nil {
		outside.Close()
		return nil, err
	}
	return outside, nil
}

// failed notes a flow that the policy let through and the outside did not.
func (n *Network) failed(dst netip.AddrPort, err error) {
	if n.ctx.Err() != nil {
		return
	}
	n.counters.failed.Add(1)
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		n.log.Warn("no more connections for the guest", "to", dst, "err", err)
		return
	}
	n.log.Debug("flow failed", "to", dst, "err", err)
}

// endpoint is the guest's side of a connection.
type endpoint struct {
	tcpip.Endpoint
	queue *waiter.Queue
}

// establish completes the handshake with the guest and sets the size of both
// buffers.
func establish(request *tcp.ForwarderRequest, size int) (endpoint, error) {
	queue := new(waiter.Queue)
	ep, tcpErr := request.CreateEndpoint(queue)
	if tcpErr != nil {
		request.Complete(true)
		return endpoint{}, errors.New(tcpErr.String())
	}
	request.Complete(false)
	options := ep.SocketOptions()
	options.SetReceiveBufferSize(int64(size), true)
	options.SetSendBufferSize(int64(size), true)
	if err := keepAlive(ep); err != nil {
		ep.Abort()
		return endpoint{}, err
	}
	return endpoint{ep, queue}, nil
}

// keepAlive has the stack find connections that the guest has forgotten.
func keepAlive(ep tcpip.Endpoint) error {
	ep.SocketOptions().SetKeepAlive(true)
	for _, option := range []tcpip.SettableSocketOption{
		ptr(tcpip.KeepaliveIdleOption(insideKeepAlive)),
		ptr(tcpip.KeepaliveIntervalOption(insideKeepAlive / 4)),
	} {
		if err := ep.SetSockOpt(option); err != nil {
			return errors.New(err.String())
		}
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

// dial connects to the outside. The policy is asked again about the address
// that the kernel is really given.
func (n *Network) dial(flow policy.Flow) (net.Conn, error) {
	dialer := net.Dialer{
		Timeout: dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: outsideKeepAlive, Interval: outsideKeepAlive / 4,
		},
		ControlContext: func(_ context.Context, _, address string, c syscall.RawConn) error {
			real, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			dialled := flow
			dialled.Dst = real
			if !n.policy.Decide(dialled).Allow {
				return errRefused
			}
			return noBroadcast(c)
		},
	}
	return dialer.DialContext(n.ctx, string(flow.Proto), flow.Dst.String())
}

// noBroadcast takes back the leave to broadcast that Go gives every UDP socket:
// the broadcast address of a network of the host's is in no list.
func noBroadcast(c syscall.RawConn) error {
	var err error
	if ctlErr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 0)
	}); ctlErr != nil {
		return ctlErr
	}
	return err
}
