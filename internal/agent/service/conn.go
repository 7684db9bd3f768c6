package service

import (
	"io"
	"net"
)

// listener gives ttrpc the streams of the guest link.
type listener struct{ s *Service }

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.s.conns:
		return conn, nil
	case <-l.s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l listener) Close() error { return nil }

// Addr implements net.Listener.
func (l listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "guestlink" }
func (addr) String() string  { return "rpc" }

// rpcConn ends with end-of-file whatever ended it: ttrpc keeps the calls of a
// connection that fails in any other way.
type rpcConn struct{ net.Conn }

// Read implements net.Conn.
func (c rpcConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}
