package agent

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxTarget bounds "host:port\n": a name has at most 253 bytes.
	maxTarget = 300
	// targetTimeout bounds the wait for it, and forwardTimeout the dial.
	targetTimeout  = 30 * time.Second
	forwardTimeout = 15 * time.Second
)

// forward joins conn with a TCP connection inside the guest, which conn's
// first line names. A target that cannot be reached resets conn.
func forward(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(targetTimeout))
	target, err := readTarget(conn)
	if err != nil {
		abort(conn)
		return
	}
	conn.SetReadDeadline(time.Time{})
	dialer := net.Dialer{Timeout: forwardTimeout}
	inner, err := dialer.Dial("tcp", target)
	if err != nil {
		abort(conn)
		return
	}
	splice(conn, inner)
}

// readTarget reads the first line, and not a byte more.
func readTarget(r io.Reader) (string, error) {
	line := make([]byte, 0, 64)
	var b [1]byte
	for len(line) < maxTarget {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("forward target is too long")
}

// splice copies both ways until both ends have said all, or one fails, and
// closes both.
func splice(a, b net.Conn) {
	var both sync.WaitGroup
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
	a.Close()
	b.Close()
}

// pass copies from one to the other and passes the end on. A failure ends both,
// so that the other direction does not wait for ever.
func pass(from, to net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		abort(from)
		abort(to)
	}
}
