package guestlink

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
)

// unaccepted is how many streams may wait for the guest's acknowledgement.
const unaccepted = 8

// session is one yamux session with the guest.
type session struct {
	mux   *yamux.Session
	log   *slog.Logger
	limit int
	// watched is closed when the session's end has been dealt with.
	watched chan struct{}

	mu   sync.Mutex
	open map[uint32]struct{}
	// opening counts streams that have a place but no id yet.
	opening int
}

func newSession(ch *channels, lim limits, log *slog.Logger) (*session, error) {
	s := &session{
		log: log, limit: lim.streams,
		open:    make(map[uint32]struct{}),
		watched: make(chan struct{}),
	}
	in := newInspector(ch.in, lim, s.isOpen, time.Now)
	var err error
	if s.mux, err = yamux.Client(&muxConn{data: ch.data, in: in}, muxConfig(lim), nil); err != nil {
		return nil, err
	}
	go s.watch(in)
	return s, nil
}

// muxConfig has no keep-alive (a paused guest is no broken link), no growing
// windows, and no log: its lines are driven by the guest.
func muxConfig(lim limits) *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = unaccepted
	c.EnableKeepAlive = false
	c.MeasureRTTInterval = math.MaxInt64
	c.ConnectionWriteTimeout = lim.writeStall
	c.MaxIncomingStreams = 0
	c.InitialStreamWindowSize = lim.window
	c.MaxStreamWindowSize = lim.window
	c.LogOutput = io.Discard
	c.ReadBufSize = 0 // the inspector reads from a buffer already
	return c
}

// watch deals with the end of the session, whoever brought it about. Nobody reads
// the data channel from then on, so that a guest that floods meets back-pressure.
func (s *session) watch(in *inspector) {
	defer close(s.watched)
	<-s.mux.CloseChan()
	// Close waits for yamux's own goroutines, after which in is ours to read.
	s.mux.Close()
	if in.broken != nil {
		s.log.Warn("guest link session ended", "cause", in.broken)
		return
	}
	s.log.Debug("guest link session ended")
}

// end closes the session and waits until nothing of it touches the channels.
func (s *session) end() {
	s.mux.Close()
	<-s.watched
}

func (s *session) isOpen(id uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.open[id]
	return ok
}

// reserve takes a place for one more stream.
func (s *session) reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open)+s.opening >= s.limit {
		return false
	}
	s.opening++
	return true
}

// settle turns a place into stream id; 0 gives the place back.
func (s *session) settle(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	if id != 0 {
		s.open[id] = struct{}{}
	}
}

func (s *session) forget(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
}

// dial opens a stream to a guest port.
func (s *session) dial(ctx context.Context, port uint32) (net.Conn, error) {
	if !s.reserve() {
		return nil, banger.Errorf(banger.CodeUnavailable, "the guest link carries %d connections already, no more fit", s.limit).
			WithHint("close some of them")
	}
	raw, err := s.mux.OpenStream(ctx)
	if err != nil {
		s.settle(0)
		return nil, s.explain(ctx, err)
	}
	s.settle(raw.StreamID())
	conn := &stream{Stream: linkwire.Stream{MuxStream: raw}, forget: sync.OnceFunc(func() { s.forget(raw.StreamID()) })}
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetWriteDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { raw.SetWriteDeadline(time.Unix(1, 0)) })
	_, err = conn.Write(linkwire.AppendPort(nil, port))
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.abort()
		return nil, s.explain(ctx, err)
	}
	return conn, conn.SetWriteDeadline(time.Time{})
}

// explain gives the errors of yamux the names that callers look for.
func (s *session) explain(ctx context.Context, err error) error {
	switch {
	case s.mux.IsClosed():
		return fmt.Errorf("%w: %v", driver.ErrNoSession, err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("guest link: %w", err)
}

// stream is a stream that gives its place back when it is closed.
type stream struct {
	linkwire.Stream
	forget func()
}

// Close implements net.Conn.
func (s *stream) Close() error {
	defer s.forget()
	return s.Stream.Close()
}

// abort ends the stream at once. On a stalled link it may take as long as the
// link's write stall limit.
func (s *stream) abort() {
	defer s.forget()
	s.Reset()
}

// muxConn lends the data channel to one yamux session: closed, it makes that
// session's reads and writes return, and the channel stays open.
type muxConn struct {
	data net.Conn
	in   io.Reader

	mu     sync.Mutex
	closed bool
}

// Read implements net.Conn.
func (c *muxConn) Read(p []byte) (int, error) { return c.in.Read(p) }

// Write implements net.Conn.
func (c *muxConn) Write(p []byte) (int, error) { return c.data.Write(p) }

// Close implements net.Conn. The next reset sets a deadline of its own.
func (c *muxConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.data.SetDeadline(time.Unix(1, 0))
}

// guarded sets a deadline unless the session is over: yamux sets them until the
// moment it ends, and one in the future would let a blocked write go on.
func (c *muxConn) guarded(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return set(t)
}

// SetDeadline implements net.Conn.
func (c *muxConn) SetDeadline(t time.Time) error { return c.guarded(c.data.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *muxConn) SetReadDeadline(t time.Time) error { return c.guarded(c.data.SetReadDeadline, t) }

// SetWriteDeadline implements net.Conn.
func (c *muxConn) SetWriteDeadline(t time.Time) error { return c.guarded(c.data.SetWriteDeadline, t) }

// LocalAddr implements net.Conn.
func (c *muxConn) LocalAddr() net.Addr { return c.data.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *muxConn) RemoteAddr() net.Addr { return c.data.RemoteAddr() }
