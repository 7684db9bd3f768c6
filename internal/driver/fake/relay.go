package fake

import (
	"io"
	"net"
	"sync"
	"time"
)

// gate keeps bytes from a guest that was paused.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // closed when the gate opens; nil: it is open
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case open && g.shut != nil:
		close(g.shut)
		g.shut = nil
	case !open && g.shut == nil:
		g.shut = make(chan struct{})
	}
}

func (g *gate) pass() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

// gated is a reader whose bytes wait at a gate.
type gated struct {
	io.Reader
	gate *gate
}

// Read implements io.Reader.
func (g gated) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	g.gate.pass()
	return n, err
}

// relay joins a supervisor's connection to a ring until the connection ends.
// Bytes on their way out at that moment are lost, as they are in QEMU.
func relay(conn, ring net.Conn, g *gate) {
	defer ring.SetDeadline(time.Time{})
	out := make(chan struct{})
	go func() {
		defer close(out)
		io.Copy(conn, ring)
		// The supervisor takes no more, or the other direction is over.
		conn.Close()
	}()
	io.Copy(ring, gated{conn, g})
	ring.SetReadDeadline(time.Unix(1, 0))
	conn.Close()
	<-out
}

// maxKept bounds what a console without a listener keeps, in bytes.
const maxKept = 64 << 10

// console is the guest's. It is kinder than it must be: what is written while
// nobody is connected is kept for the next one.
type console struct {
	mu   sync.Mutex
	conn net.Conn
	kept []byte
}

// Write implements io.Writer.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.conn != nil:
		c.conn.Write(p)
	case len(c.kept)+len(p) <= maxKept:
		c.kept = append(c.kept, p...)
	}
	return len(p), nil
}

// attach makes conn the listener until it closes.
func (c *console) attach(conn net.Conn) {
	c.set(conn)
	io.Copy(io.Discard, conn)
	c.set(nil)
}

func (c *console) set(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if conn != nil {
		conn.Write(c.kept)
		c.kept = nil
	}
}
