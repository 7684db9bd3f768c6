package link

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
)

const (
	// window is the bytes that the host may have sent on one stream unread.
	window = 256 << 10
	// message is the largest message, in bytes, header included: four writes of
	// the port, none of them short.
	message = 4 * maxWrite
	// maxStreams bounds the host's streams; more than the host opens.
	maxStreams = 1024
	// headerTimeout bounds the wait for a stream's first four bytes.
	headerTimeout = 30 * time.Second
)

// session is one yamux session. A nil session has ended.
type session struct {
	mux     *yamux.Session
	handler Handler
	log     *slog.Logger
	// goroutines are the server's: a stream that is slow to end must not hold
	// up the next reset.
	goroutines *sync.WaitGroup
}

// muxConfig has no keep-alive and no growing windows; the host does the
// bounding. Its round-trip measurement is one ping, of which the host allows a
// few.
func muxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.MeasureRTTInterval = math.MaxInt64
	c.MaxIncomingStreams = maxStreams
	c.InitialStreamWindowSize = window
	c.MaxStreamWindowSize = window
	c.MaxMessageSize = message
	c.LogOutput = io.Discard
	c.ReadBufSize = 0 // the server's buffer is below
	return c
}

// end closes the session: its streams fail with broken true. It returns when
// nothing touches the data channel any more.
func (s *session) end() {
	if s != nil {
		s.mux.Close()
	}
}

func (s *session) accept() {
	for {
		raw, err := s.mux.AcceptStream()
		if err != nil {
			return
		}
		s.goroutines.Go(func() { s.serve(linkwire.Stream{MuxStream: raw}) })
	}
}

// serve hands a stream to the handler. A panic there must not take the agent,
// and with it the whole guest, out of reach.
func (s *session) serve(conn linkwire.Stream) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("stream failed", "cause", fmt.Sprint(cause), "stack", string(debug.Stack()))
			conn.Reset()
		}
	}()
	conn.SetReadDeadline(time.Now().Add(headerTimeout))
	port, err := linkwire.ReadPort(conn)
	if err != nil {
		conn.Reset()
		return
	}
	conn.SetReadDeadline(time.Time{})
	// yamux marks the session closed before it fails the first stream.
	s.handler.Stream(conn, port, s.mux.IsClosed)
}

// muxConn lends the data channel to one yamux session: closing it only makes
// that session's reads and writes return.
type muxConn struct {
	data Channel
	in   io.Reader
}

func (c *muxConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *muxConn) Write(p []byte) (int, error) { return c.data.Write(p) }

// Close implements net.Conn. The server clears the deadline at the next reset.
func (c *muxConn) Close() error { return c.data.SetDeadline(time.Unix(1, 0)) }

// The guest waits for its host as long as it takes: while the VM is paused or
// no supervisor is there, nobody reads, and commands are only held up.
func (c *muxConn) SetDeadline(time.Time) error      { return nil }
func (c *muxConn) SetReadDeadline(time.Time) error  { return nil }
func (c *muxConn) SetWriteDeadline(time.Time) error { return nil }

func (c *muxConn) LocalAddr() net.Addr  { return addr{} }
func (c *muxConn) RemoteAddr() net.Addr { return addr{} }

// addr is the address of either end.
type addr struct{}

func (addr) Network() string { return "virtio" }
func (addr) String() string  { return "banger" }
