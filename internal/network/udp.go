package network

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/policy"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// maxDatagrams is how many UDP flows there may be; then the one that was
	// idle longest makes room.
	maxDatagrams = 1024
	// udpIdle is how long a flow lives without a datagram either way, and
	// udpIdleDNS the same for one question and its answer.
	udpIdle    = 60 * time.Second
	udpIdleDNS = 10 * time.Second
	// maxDatagram is the largest payload that the guest's MTU lets in.
	maxDatagram = banger.GuestMTU - header.IPv4MinimumSize - header.UDPMinimumSize
)

// datagrams forwards UDP. It keeps one connected socket of the host for each
// pair of guest port and destination, so that only the destination can answer.
type datagrams struct {
	net           *Network
	idle, idleDNS time.Duration

	mu     sync.Mutex
	closed bool
	flows  map[datagramKey]*datagramFlow
}

type datagramKey struct {
	port uint16 // of the guest
	dst  netip.AddrPort
}

type datagramFlow struct {
	key   datagramKey
	asked policy.Flow
	conn  *net.UDPConn
	raw   syscall.RawConn
	idle  time.Duration
	used  atomic.Int64 // time of the last datagram, in nanoseconds since 1970
}

func newDatagrams(n *Network) *datagrams {
	return &datagrams{net: n, idle: udpIdle, idleDNS: udpIdleDNS, flows: map[datagramKey]*datagramFlow{}}
}

// receive takes one datagram of the guest. When it is false the stack tells the
// guest that the port is unreachable. It is called on the path of frames and
// never blocks.
func (d *datagrams) receive(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	length := int(header.UDP(pkt.TransportHeader().Slice()).Length()) - header.UDPMinimumSize
	if length < 0 || length > pkt.Data().Size() {
		d.net.counters.malformed.Add(1)
		return true
	}
	payload, ok := pkt.Data().PullUp(length)
	if !ok {
		return true
	}
	key := datagramKey{port: id.RemotePort, dst: netip.AddrPortFrom(netipAddr(id.LocalAddress), id.LocalPort)}
	if key.dst == netip.AddrPortFrom(gatewayAddr, dnsPort) {
		d.net.queryUDP(key.port, payload)
		return true
	}
	// A flow may end between being found and being used: then a new one is
	// made, once.
	for range 2 {
		flow, ok := d.find(key)
		if !ok {
			return false
		}
		err := flow.send(payload)
		if !errors.Is(err, net.ErrClosed) {
			return err == nil || errors.Is(err, syscall.EAGAIN)
		}
	}
	return false
}

// find returns the flow of key, made now if need be.
func (d *datagrams) find(key datagramKey) (*datagramFlow, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if flow, ok := d.flows[key]; ok {
		return flow, true
	}
	if d.closed {
		return nil, false
	}
	asked := d.net.flow(policy.ProtoUDP, key.dst)
	if !d.net.decide(asked).Allow {
		return nil, false
	}
	flow, err := d.open(key, asked)
	if err != nil {
		d.net.failed(key.dst, err)
		return nil, false
	}
	if !d.net.begin() {
		flow.conn.Close()
		return nil, false
	}
	if len(d.flows) >= maxDatagrams {
		d.evict()
	}
	d.flows[key] = flow
	d.net.counters.open.Add(1)
	go func() {
		defer d.net.work.Done()
		d.answer(flow)
		d.end(flow)
	}()
	return flow, true
}

func (d *datagrams) open(key datagramKey, asked policy.Flow) (*datagramFlow, error) {
	conn, err := d.net.dial(asked)
	if err != nil {
		return nil, err
	}
	flow := &datagramFlow{key: key, asked: asked, conn: conn.(*net.UDPConn), idle: d.idle}
	if key.dst.Port() == dnsPort {
		flow.idle = d.idleDNS
	}
	if flow.raw, err = flow.conn.SyscallConn(); err != nil {
		conn.Close()
		return nil, err
	}
	flow.used.Store(time.Now().UnixNano())
	return flow, nil
}

// evict ends the flow that was idle longest. d.mu is held.
func (d *datagrams) evict() {
	var oldest *datagramFlow
	for _, flow := range d.flows {
		if oldest == nil || flow.used.Load() < oldest.used.Load() {
			oldest = flow
		}
	}
	delete(d.flows, oldest.key)
	oldest.conn.Close()
}

// review ends the flows that the policy forbids.
func (d *datagrams) review() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, flow := range d.flows {
		if verdict := d.net.policy.Decide(flow.asked); !verdict.Allow {
			d.net.note(flow.asked, verdict)
			delete(d.flows, key)
			flow.conn.Close()
		}
	}
}

// end closes a flow. It may have been evicted, and its key be another's now.
func (d *datagrams) end(flow *datagramFlow) {
	d.mu.Lock()
	if d.flows[flow.key] == flow {
		delete(d.flows, flow.key)
	}
	d.mu.Unlock()
	flow.conn.Close()
	d.net.counters.open.Add(-1)
}

// close ends all flows; their goroutines are part of the network's work.
func (d *datagrams) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, flow := range d.flows {
		flow.conn.Close()
	}
}

// send passes one datagram to the outside, or drops it (EAGAIN) when the socket
// is full: it must not wait.
func (f *datagramFlow) send(payload []byte) error {
	f.used.Store(time.Now().UnixNano())
	var sendErr error
	err := f.raw.Write(func(fd uintptr) bool {
		_, sendErr = unix.Write(int(fd), payload)
		return true
	})
	if err != nil {
		return err
	}
	return sendErr
}

// answer passes what comes back to the guest until the flow is idle or closed.
func (d *datagrams) answer(flow *datagramFlow) {
	for {
		wait := flow.idle - time.Since(time.Unix(0, flow.used.Load()))
		if wait <= 0 {
			return
		}
		if err := flow.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return
		}
		err := d.answerOnce(flow)
		var timeout net.Error
		switch {
		case err == nil:
			flow.used.Store(time.Now().UnixNano())
		case errors.As(err, &timeout) && timeout.Timeout():
		case errors.Is(err, syscall.ECONNREFUSED):
			d.net.sendPortUnreachable(flow.key)
		default:
			return
		}
	}
}

func (d *datagrams) answerOnce(flow *datagramFlow) error {
	buf, count, err := d.net.buffers.read(flow.raw, copySize)
	switch {
	case err != nil:
		return err
	case buf == nil:
		d.net.sendUDP(flow.key, nil)
		return nil
	}
	defer buf.give()
	d.net.sendUDP(flow.key, buf.bytes[:count])
	return nil
}

// sendUDP gives the guest a datagram from a flow's destination.
func (n *Network) sendUDP(key datagramKey, payload []byte) {
	if len(payload) > maxDatagram {
		n.counters.lost.Add(1)
		return
	}
	length := header.UDPMinimumSize + len(payload)
	frame, body := newIPv4(key.dst.Addr(), header.UDPProtocolNumber, length)
	copy(body[header.UDPMinimumSize:], payload)
	encodeUDP(body, key)
	n.link.sendFrame(frame)
}

// encodeUDP writes the header of a datagram to the guest before its payload.
func encodeUDP(datagram header.UDP, key datagramKey) {
	datagram.Encode(&header.UDPFields{SrcPort: key.dst.Port(), DstPort: key.port, Length: uint16(len(datagram))})
	sum := header.PseudoHeaderChecksum(header.UDPProtocolNumber,
		tcpip.AddrFrom4(key.dst.Addr().As4()), tcpip.AddrFrom4(guestAddr.As4()), uint16(len(datagram)))
	sum = ^checksum.Checksum(datagram, sum)
	if sum == 0 {
		sum = 0xffff // RFC 768: 0 means that there is none
	}
	datagram.SetChecksum(sum)
}

// sendPortUnreachable tells the guest that a datagram of a flow was refused.
// The packet is gone; what the guest looks at in the copy that the message
// quotes is its addresses and ports.
func (n *Network) sendPortUnreachable(key datagramKey) {
	quoted := make(header.IPv4, header.IPv4MinimumSize+header.UDPMinimumSize)
	quoted.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(quoted)),
		TTL:         64,
		Protocol:    uint8(header.UDPProtocolNumber),
		SrcAddr:     tcpip.AddrFrom4(guestAddr.As4()),
		DstAddr:     tcpip.AddrFrom4(key.dst.Addr().As4()),
	})
	quoted.SetChecksum(^quoted.CalculateChecksum())
	header.UDP(quoted[header.IPv4MinimumSize:]).Encode(&header.UDPFields{
		SrcPort: key.port, DstPort: key.dst.Port(), Length: header.UDPMinimumSize,
	})
	n.link.sendUnreachable(quoted, header.ICMPv4PortUnreachable)
}
