// Package network gives one VM its private user-mode network: the gateway that
// the guest sees, its name server, and the way out for TCP and UDP, each flow
// decided by one policy. It is the only importer of gvisor. Nothing of it needs
// a right on the host: what leaves are ordinary sockets of this process.
//
// The guest is hostile: frames are checked before the stack sees them, and
// flows, queries, buffers and waiting packets are all counted and bounded.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/policy"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Config says what a VM's network lets out. The zero value lets nothing out.
type Config struct {
	// NAT lets the guest reach the outside. When it is false every flow is
	// refused, and every name is answered with NXDOMAIN.
	NAT bool
	// Policy says what of the outside; nil: all of it.
	Policy *policy.Policy
	// Record is called with every refusal, and with what learning lets through. It
	// is called on the path of packets: it must not block. It may be nil.
	Record func(policy.Flow, policy.Verdict)
	// DNSUpstream is the host:port (an IP address) of the name server that
	// the guest's queries go to. Empty: those of the host's /etc/resolv.conf,
	// read again when it changes. It may be a loopback or private address:
	// this process dials it, not the guest.
	DNSUpstream string
	// AllowPrivate lists the networks that are reachable although they are
	// otherwise refused always (policy.Gate). The guest's own network never is.
	AllowPrivate []netip.Prefix
	// HostAddrs returns the host's own addresses; it is called at dial time, at
	// most every two seconds. Nil: those of the host's interfaces.
	HostAddrs func() []netip.Addr
	// Log may be nil.
	Log *slog.Logger
}

// nicID is the stack's one interface.
const nicID tcpip.NICID = 1

// Network is one VM's network. All methods may be called at any time from any
// goroutine.
type Network struct {
	log      *slog.Logger
	ctx      context.Context // ends when Close begins
	cancel   context.CancelFunc
	work     sync.WaitGroup // every goroutine but those of Attach's caller
	counters *counters
	policy   Decider
	rules    *ruling // what SetPolicy replaces: policy, unless that is a test's
	record   func(policy.Flow, policy.Verdict)
	names    *resolver
	stack    *stack.Stack
	link     *link
	budget   *budget
	datagram *datagrams
	live     *connections
	buffers  buffers

	changing sync.Mutex // orders changes of the policy
	answered sync.Mutex // guards answers
	answers  *policy.Answers

	// Each query under way, and each connection for some, holds a place.
	queries, queryConns chan struct{}
	inward              atomic.Int64 // connections into the guest

	mu      sync.Mutex // guards closed and the start of work
	closed  bool
	serving chan struct{} // nil, or closed when the running Attach has returned
}

// New makes a network that carries nothing until Attach. The caller must Close
// it. It fails on a bad DNSUpstream.
func New(cfg Config) (*Network, error) {
	rules := newRuling(cfg)
	n, err := newNetwork(cfg, rules)
	if err != nil {
		return nil, err
	}
	n.rules = rules
	return n, nil
}

func newNetwork(cfg Config, decider Decider) (*Network, error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n := &Network{
		log: log, counters: newCounters(), policy: decider, record: cfg.Record, budget: newBudget(),
		live: newConnections(), answers: policy.NewAnswers(),
		queries: make(chan struct{}, maxQueries), queryConns: make(chan struct{}, maxQueryConns),
	}
	var err error
	if n.names, err = newResolver(cfg.DNSUpstream, &n.buffers); err != nil {
		return nil, err
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.datagram = newDatagrams(n)
	n.link = newLink(n.counters)
	if err := n.build(); err != nil {
		n.cancel()
		return nil, err
	}
	return n, nil
}

// build assembles the stack: one interface with the gateway's address, on which
// packets for any other address arrive too (promiscuous) and may be answered
// from that address (spoofing).
func (n *Network) build() error {
	n.stack = stack.New(stack.Options{
		// Packets for 127.0.0.0/8 are let in so that they are refused and
		// counted like any other, not lost.
		NetworkProtocols: []stack.NetworkProtocolFactory{
			ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true}),
		},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	steps := []func() tcpip.Error{
		func() tcpip.Error { return n.stack.CreateNIC(nicID, n.link) },
		func() tcpip.Error {
			return n.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
				Protocol: ipv4.ProtocolNumber,
				AddressWithPrefix: tcpip.AddressWithPrefix{
					Address: tcpip.AddrFrom4(gatewayAddr.As4()), PrefixLen: banger.GuestPrefix,
				},
			}, stack.AddressProperties{})
		},
		func() tcpip.Error { return n.stack.SetPromiscuousMode(nicID, true) },
		func() tcpip.Error { return n.stack.SetSpoofing(nicID, true) },
		func() tcpip.Error { return tuneTCP(n.stack) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			n.stack.Destroy()
			return fmt.Errorf("network stack: %s", err)
		}
	}
	n.stack.SetRouteTable([]tcpip.Route{{Destination: guestSubnet(), NIC: nicID}})
	forwarder := tcp.NewForwarder(n.stack, maxFlowBuffer, maxTCPPending, n.acceptTCP)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, n.datagram.receive)
	return nil
}

// begin counts one piece of work that Close waits for. It is false when the
// network is closing; else the caller must call n.work.Done.
func (n *Network) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.work.Add(1)
	return true
}

// Attach serves the guest's Ethernet frames on conn, each after its length in
// four bytes, big-endian (QEMU's stream netdev), and closes conn before it
// returns. It returns nil when the other end has closed, ctx's error when ctx
// has ended, and else why it could not go on: net.ErrClosed after Close, an
// error of conn, or a frame length that shows that the stream is out of step.
//
// One connection is served at a time: a second Attach beside a running one is
// CodeWrongState. After it has returned it may be called again, also with a
// guest that knew an earlier network: addresses are the same in all of them.
func (n *Network) Attach(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	done, err := n.startServing()
	if err != nil {
		return err
	}
	defer func() {
		n.mu.Lock()
		n.serving = nil
		n.mu.Unlock()
		close(done)
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(n.ctx, func() { cancel(net.ErrClosed) })()
	err = n.link.serve(ctx, conn)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (n *Network) startServing() (chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.closed:
		return nil, net.ErrClosed
	case n.serving != nil:
		return nil, banger.Errorf(banger.CodeWrongState, "the VM's network is attached already")
	}
	n.serving = make(chan struct{})
	return n.serving, nil
}

// Close ends every flow and waits for all that the network has started; a
// running Attach returns net.ErrClosed. Connections of DialContext are reset.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	serving := n.serving
	n.mu.Unlock()

	n.cancel()
	if serving != nil {
		<-serving
	}
	n.datagram.close()
	n.drain()
	n.stack.Destroy()
	return nil
}

// drain aborts the stack's endpoints until no work is left. Once is not enough:
// a flow may be between its dial and its handshake, whose endpoint comes into
// being later and is ended by nothing else.
func (n *Network) drain() {
	idle := make(chan struct{})
	go func() {
		n.work.Wait()
		close(idle)
	}()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		for _, endpoint := range n.stack.RegisteredEndpoints() {
			endpoint.Abort()
		}
		select {
		case <-idle:
			return
		case <-again.C:
		}
	}
}

// errRefused is the dial error of an address that the policy refuses.
var errRefused = errors.New("refused by policy")
