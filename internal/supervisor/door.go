package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/linkwire"
)

const (
	// connectLine bounds the request of a connection to link.sock.
	connectLine = 32
	// connectTime bounds the wait for it.
	connectTime = 5 * time.Second
	// sessionTime bounds the wait for a session with the guest, as while a
	// successor joins it.
	sessionTime = 15 * time.Second
	// maxConnections bounds what is spliced at once: each takes two goroutines
	// and two buffers.
	maxConnections = 1024
	spliceBuffer   = 64 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, spliceBuffer); return &b }}

// door splices connections of link.sock to ports of the guest.
type door struct {
	// dial opens a stream to a guest port; it waits for a session.
	dial   func(ctx context.Context, port uint32) (net.Conn, error)
	open   atomic.Int32
	notify func(open int32)
}

// serve accepts until l is closed, and returns when every connection has ended. A
// connection that cannot be taken, as while no descriptor is free, is waited for.
func (d *door) serve(ctx context.Context, l net.Listener) {
	var all sync.WaitGroup
	defer all.Wait()
	for retry := newBackoff(acceptRetry); ; {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || err != nil && !retry.wait(ctx) {
			return
		}
		if err != nil {
			continue
		}
		retry.reset()
		all.Go(func() {
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			d.connection(ctx, conn)
		})
	}
}

func (d *door) connection(ctx context.Context, conn net.Conn) {
	d.notify(d.open.Add(1))
	defer func() { d.notify(d.open.Add(-1)) }()
	guest, err := d.connect(ctx, conn)
	if err != nil {
		fmt.Fprintf(conn, "ERR %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	defer guest.Close()
	if _, err := io.WriteString(conn, "OK\n"); err != nil {
		return
	}
	splice(conn, guest)
}

// connect reads the request and opens the guest's end.
func (d *door) connect(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if d.open.Load() > maxConnections {
		return nil, errors.New("too many connections to this VM")
	}
	conn.SetReadDeadline(time.Now().Add(connectTime))
	line, err := readLine(conn)
	if err != nil {
		return nil, err
	}
	conn.SetReadDeadline(time.Time{})
	port, err := parseConnect(line)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTime)
	defer cancel()
	for {
		guest, err := d.dial(ctx, port)
		switch {
		case err == nil:
			return guest, nil
		case errors.Is(err, errPaused):
			return nil, err
		case ctx.Err() != nil:
			return nil, errors.New("the guest does not answer")
		case !errors.Is(err, driver.ErrNoSession):
			return nil, err
		}
	}
}

// readLine reads up to a newline and not one byte more: what follows is the
// guest's.
func readLine(r io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < connectLine; {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
	return "", errors.New("request too long")
}

func parseConnect(line string) (uint32, error) {
	text, ok := strings.CutPrefix(line, "CONNECT ")
	if !ok {
		return 0, errors.New("want CONNECT and a port")
	}
	port, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, errors.New("want CONNECT and a port")
	}
	switch uint32(port) {
	case linkwire.PortRPC, linkwire.PortExec, linkwire.PortSSH, linkwire.PortForward:
		return uint32(port), nil
	}
	return 0, fmt.Errorf("no guest port %d", port)
}

// splice copies both ways. A direction that ends is ended on the other side; one
// that breaks takes the other with it.
func splice(client, guest net.Conn) {
	var back sync.WaitGroup
	back.Go(func() { copyHalf(client, guest) })
	copyHalf(guest, client)
	back.Wait()
}

func copyHalf(to, from net.Conn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// The wrappers keep io.CopyBuffer from looking for a cleverer way, which
	// would allocate a buffer of its own.
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		half.CloseWrite()
		return
	}
	to.Close()
	from.Close()
}

// countConnections keeps the number of open connections in the status.
func (s *supervisor) countConnections(open int32) {
	s.status.update(func(r *vmv1.StatusResponse) { r.Connections = open })
}
