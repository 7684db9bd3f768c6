package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// queuedFrames is how many frames may wait for the guest to take them.
	// With the largest frames this is 4 MiB, most of it shared with the send
	// buffers of their flows.
	queuedFrames = 64
	// stallAfter is how long a sender waits for room in the queue. When the
	// guest has taken nothing for so long (it is paused, or hangs) frames are
	// dropped until it does again, as a network card would.
	stallAfter = 100 * time.Millisecond
)

// link is the wire between the stack and the guest: the stack's view of it is a
// plain IP interface, the guest's an Ethernet with two stations. The stack
// never asks for addresses, so no ARP of ours can get lost.
type link struct {
	counters *counters
	out      chan *stack.PacketBuffer
	stalled  atomic.Bool

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
	session    *session
	joined     chan struct{} // closed while there is a session
}

// session is one attached connection.
type session struct {
	conn net.Conn
	done chan struct{} // closed when the session ends
	once sync.Once
}

func (s *session) end() {
	s.once.Do(func() {
		close(s.done)
		s.conn.Close()
	})
}

var _ stack.LinkEndpoint = (*link)(nil)

func newLink(c *counters) *link {
	return &link{counters: c, out: make(chan *stack.PacketBuffer, queuedFrames), joined: make(chan struct{})}
}

// serve carries frames both ways until conn or ctx ends; it closes conn.
func (l *link) serve(ctx context.Context, conn net.Conn) error {
	s := &session{conn: conn, done: make(chan struct{})}
	defer context.AfterFunc(ctx, s.end)()
	l.drop() // what an earlier guest did not take is not for this one
	l.stalled.Store(false)
	l.mu.Lock()
	l.session = s
	close(l.joined)
	l.mu.Unlock()

	written := make(chan error, 1)
	go func() {
		defer s.end()
		written <- l.write(s)
	}()
	err := readFrames(conn, l.receive, func() { l.counters.malformed.Add(1) })
	s.end()
	l.mu.Lock()
	l.session = nil
	l.joined = make(chan struct{})
	l.mu.Unlock()
	if writeErr := <-written; writeErr != nil {
		err = writeErr // the reader failed only because of it
	}
	l.drop()
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrClosedPipe) {
		return nil // the writer was the first to see that the other end closed
	}
	return err
}

// waitAttached returns when there is a session, or with ctx's cause.
func (l *link) waitAttached(ctx context.Context) error {
	l.mu.RLock()
	joined := l.joined
	l.mu.RUnlock()
	select {
	case <-joined:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drop empties the queue.
func (l *link) drop() {
	for {
		select {
		case pkt := <-l.out:
			pkt.DecRef()
			l.counters.lost.Add(1)
		default:
			return
		}
	}
}

// send queues a whole frame and owns pkt from here on.
func (l *link) send(pkt *stack.PacketBuffer) {
	l.mu.RLock()
	s := l.session
	l.mu.RUnlock()
	if s != nil {
		select {
		case l.out <- pkt:
			return
		default:
		}
		if !l.stalled.Load() && l.sendSlowly(s, pkt) {
			return
		}
	}
	l.counters.lost.Add(1)
	pkt.DecRef()
}

// sendSlowly waits for room: it slows the sender down to what the guest takes.
func (l *link) sendSlowly(s *session, pkt *stack.PacketBuffer) bool {
	patience := time.NewTimer(stallAfter)
	defer patience.Stop()
	select {
	case l.out <- pkt:
		return true
	case <-s.done:
	case <-patience.C:
		l.stalled.Store(true)
	}
	return false
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	list := pkts.AsSlice()
	for _, pkt := range list {
		l.send(pkt.Clone())
	}
	return len(list), nil
}

// AddHeader implements stack.NetworkLinkEndpoint.
func (l *link) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC, DstAddr: guestMAC, Type: header.IPv4ProtocolNumber,
	})
}

// Attach implements stack.NetworkLinkEndpoint.
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *link) IsAttached() bool { return l.upward() != nil }

func (l *link) upward() stack.NetworkDispatcher {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher
}

// Capabilities implements stack.NetworkLinkEndpoint. Checksums of what the
// guest sends are not checked: a socket of this host breaks no bytes, and a
// virtual card may leave them to its peer.
func (l *link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// The rest of stack.NetworkLinkEndpoint: constants of this one wire.

func (l *link) MTU() uint32                             { return banger.GuestMTU }
func (l *link) SetMTU(uint32)                           {}
func (l *link) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (l *link) LinkAddress() tcpip.LinkAddress          { return gatewayMAC }
func (l *link) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *link) Wait()                                   {}
func (l *link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
func (l *link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *link) Close()                                  {}
func (l *link) SetOnCloseAction(func())                 {}
