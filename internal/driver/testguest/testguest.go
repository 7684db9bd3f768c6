// Package testguest is a very small guest: the far end of the guest link and a
// few services that the drivers' conformance suite asks for. The fake VMM runs
// it as its guest, and internal/driver/testguest/init runs it in a real one.
//
// It is written apart from the agent on purpose: two readings of
// internal/linkwire check each other.
package testguest

import (
	"context"
	"io"
	"math"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-yamux/v5"

	"github.com/banger-dev/banger/internal/linkwire"
)

// maxStale bounds what is skipped before a preamble, in bytes.
const maxStale = 256 << 20

// Channel is the guest's end of one port. It stays open over sessions; a
// deadline in the past frees whoever reads or writes.
type Channel interface {
	io.ReadWriter
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// Handler serves a stream to a guest port, and closes it.
type Handler func(port uint32, conn net.Conn)

// Guest is the guest's end of the link.
type Guest struct {
	Ctl, Data Channel
	Handle    Handler
	// Boot, if set, gets the payload of each reset that has one.
	Boot func(payload []byte)
}

// Serve answers resets until ctl ends or ctx does.
func (g *Guest) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { g.Ctl.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var current *session
	defer func() { current.end() }()
	var scanner linkwire.Scanner
	buf := make([]byte, 64<<10)
	for {
		n, err := g.Ctl.Read(buf)
		scanner.Write(buf[:n])
		for d, ok := scanner.Next(); ok; d, ok = scanner.Next() {
			current.end()
			if d.Kind == linkwire.KindEnd {
				current = nil
				if _, err := g.Data.Write(linkwire.Preamble(d.Nonce)); err != nil {
					return err
				}
				continue
			}
			if len(d.Payload) > 0 && g.Boot != nil {
				g.Boot(d.Payload)
			}
			current = g.begin(d.Nonce)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// session is what one doorbell began.
type session struct {
	conn *sessionConn
	done chan struct{}
}

func (g *Guest) begin(n linkwire.Nonce) *session {
	s := &session{conn: &sessionConn{Channel: g.Data}, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		// An error ends the session only: the next doorbell makes another.
		_ = g.run(s.conn, n)
	}()
	return s
}

// end evicts the session from the data channel and waits for it.
func (s *session) end() {
	if s == nil {
		return
	}
	s.conn.Close()
	<-s.done
	s.conn.Channel.SetDeadline(time.Time{})
}

// run agrees on the nonce and serves streams until the session ends.
func (g *Guest) run(conn *sessionConn, n linkwire.Nonce) error {
	if _, err := conn.Write(linkwire.Preamble(n)); err != nil {
		return err
	}
	if err := linkwire.SkipTo(conn, n, maxStale); err != nil {
		return err
	}
	config := yamux.DefaultConfig()
	config.EnableKeepAlive = false
	config.MeasureRTTInterval = math.MaxInt64
	config.LogOutput = io.Discard
	mux, err := yamux.Server(conn, config, nil)
	if err != nil {
		return err
	}
	var streams sync.WaitGroup
	defer streams.Wait()
	defer mux.Close()
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return err
		}
		streams.Go(func() {
			if port, err := linkwire.ReadPort(stream); err == nil {
				g.Handle(port, linkwire.Stream{MuxStream: stream})
			}
			stream.Close()
		})
	}
}

// sessionConn is the data channel as one session sees it: closed for good when
// the session ends, while the channel itself stays open.
type sessionConn struct {
	Channel
	mu     sync.Mutex
	closed bool
}

// Close implements net.Conn: it frees this session's reader and writer.
func (c *sessionConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return c.Channel.SetDeadline(time.Unix(1, 0))
}

// guarded sets a deadline unless the session is over.
func (c *sessionConn) guarded(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return set(t)
}

// SetDeadline implements net.Conn.
func (c *sessionConn) SetDeadline(t time.Time) error { return c.guarded(c.Channel.SetDeadline, t) }

// SetReadDeadline implements net.Conn.
func (c *sessionConn) SetReadDeadline(t time.Time) error {
	return c.guarded(c.Channel.SetReadDeadline, t)
}

// SetWriteDeadline implements net.Conn.
func (c *sessionConn) SetWriteDeadline(t time.Time) error {
	return c.guarded(c.Channel.SetWriteDeadline, t)
}

// LocalAddr implements net.Conn.
func (c *sessionConn) LocalAddr() net.Addr { return addr{} }

// RemoteAddr implements net.Conn.
func (c *sessionConn) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "port" }
func (addr) String() string  { return "guest link" }
