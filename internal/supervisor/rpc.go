package supervisor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/allowance"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/containerd/ttrpc"
)

// The header of a ttrpc message: length 4, stream 4, type 1, flags 1,
// big-endian (containerd/ttrpc PROTOCOL.md).
const (
	rpcHeader       = 10
	rpcResponse     = 2
	rpcData         = 3
	rpcRemoteClosed = 1
)

// maxMessage bounds one message of the agent, in bytes: the longest is that of 256
// listening sockets.
const maxMessage = 64 << 10

// messageRate is for the messages of all streams of a VM's life. An honest agent
// sends four for each session, and then an event now and again; its listening
// sockets at most once a second.
func messageRate() allowance.Size { return allowance.Size{Burst: 64, PerSecond: 2} }

// agent opens a client for the agent's calls; close ends it.
func (s *supervisor) agent(ctx context.Context) (client agentv1.AgentClient, close func(), err error) {
	conn, err := s.vm.Link().Dial(ctx, linkwire.PortRPC)
	if err != nil {
		return nil, nil, err
	}
	c := ttrpc.NewClient(&rpcConn{Conn: conn, messages: s.messages, open: make(map[uint32]struct{})})
	return agentv1.NewAgentClient(c), func() { c.Close() }, nil
}

// ration is an allowance that several goroutines spend.
type ration struct {
	mu     sync.Mutex
	bucket allowance.Bucket
}

func newRation(size allowance.Size) *ration {
	return &ration{bucket: allowance.New(size, time.Now())}
}

func (r *ration) take() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bucket.Take(1, time.Now())
}

// rpcConn ends where the guest sends what ttrpc would spend memory, time or
// lines of its own log on: messages that are long, many, or for no call of ours.
type rpcConn struct {
	net.Conn
	messages *ration

	in, out framer
	mu      sync.Mutex
	open    map[uint32]struct{} // the calls that are not answered yet
}

// Read implements net.Conn.
func (c *rpcConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bad := c.in.see(p[:n], c.answered); bad != nil {
		return 0, bad
	}
	return n, err
}

// Write implements net.Conn. ttrpc writes one message after the other.
func (c *rpcConn) Write(p []byte) (int, error) {
	if err := c.out.see(p, c.asked); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// asked notes a call.
func (c *rpcConn) asked(m rpcMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[m.stream] = struct{}{}
	return nil
}

// answered judges a message of the guest.
func (c *rpcConn) answered(m rpcMessage) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, open := c.open[m.stream]
	switch {
	case m.length > maxMessage:
		return fmt.Errorf("the guest sent a message of %d bytes, at most %d", m.length, maxMessage)
	case !open || m.kind != rpcResponse && m.kind != rpcData:
		return fmt.Errorf("the guest sent a message of type %d for call %d, which is not open", m.kind, m.stream)
	case m.kind == rpcData && !c.messages.take(): // an answer has its call: those are ours to count
		return fmt.Errorf("the guest sent too many messages")
	}
	if m.kind == rpcResponse || m.flags&rpcRemoteClosed != 0 {
		delete(c.open, m.stream)
	}
	return nil
}

// rpcMessage is what the header of a message says.
type rpcMessage struct {
	length, stream uint32
	kind, flags    byte
}

// framer follows the messages of one direction.
type framer struct {
	header [rpcHeader]byte
	have   int    // bytes of header so far
	body   uint32 // bytes of the present message still to come
}

// see calls judge for each header in p, and ends with its first error.
func (f *framer) see(p []byte, judge func(rpcMessage) error) error {
	for len(p) > 0 {
		if f.body > 0 {
			skip := min(uint32(len(p)), f.body)
			f.body -= skip
			p = p[skip:]
			continue
		}
		n := copy(f.header[f.have:], p)
		f.have += n
		p = p[n:]
		if f.have < rpcHeader {
			return nil
		}
		f.have = 0
		m := rpcMessage{
			length: binary.BigEndian.Uint32(f.header[:]), stream: binary.BigEndian.Uint32(f.header[4:]),
			kind: f.header[8], flags: f.header[9],
		}
		if err := judge(m); err != nil {
			return err
		}
		f.body = m.length
	}
	return nil
}
