package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/unixsock"
)

// maxReply bounds the answer to CONNECT, in bytes.
const maxReply = 512

// DialLink connects to a port of a guest through its supervisor's link socket
// (the CONNECT protocol of api/stream). Errors have code unavailable.
func DialLink(ctx context.Context, socket string, port uint32) (*net.UnixConn, error) {
	conn, err := unixsock.Dial(ctx, socket)
	if err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "the VM's supervisor is not reachable: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = connectPort(conn, port)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, banger.Errorf(banger.CodeUnavailable, "the guest is not reachable: %w", err)
	}
	return conn, nil
}

func connectPort(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	// Not one byte after the line may be taken: it is the guest's.
	var reply [maxReply]byte
	n, err := io.ReadFull(conn, reply[:3])
	if err != nil {
		return ended(err)
	}
	for reply[n-1] != '\n' {
		if n == len(reply) {
			return errors.New("the supervisor's answer is too long")
		}
		if _, err := io.ReadFull(conn, reply[n:n+1]); err != nil {
			return ended(err)
		}
		n++
	}
	line := strings.TrimSuffix(string(reply[:n]), "\n")
	if line == "OK" {
		return nil
	}
	if text, ok := strings.CutPrefix(line, "ERR "); ok {
		return errors.New(text)
	}
	return fmt.Errorf("unexpected answer %q", line)
}

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the supervisor closed the connection")
	}
	return err
}

const (
	// linkWait is how long one request waits for the agent or for a successor.
	linkWait = 10 * time.Second
	// firstWithin bounds the first connection: a supervisor may just have
	// crashed.
	firstWithin = 30 * time.Second
)

// Dialer returns a function that connects to a port of VM id: through socket,
// as long as that answers, else through wherever the daemon says that the link
// is now. stream.ErrPaused says that the VM has been paused for some time, and
// nothing else is wrong; errors with code not_found or wrong_state that the VM is
// gone.
func (c *Client) Dialer(id, socket string, port uint32) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if conn, err := DialLink(ctx, socket, port); err == nil {
			return conn, nil
		}
		return c.redial(ctx, id, port)
	}
}

// redial tries to connect until it does, for a bounded time.
func (c *Client) redial(ctx context.Context, id string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, firstWithin)
	defer cancel()
	for again := 20 * time.Millisecond; ; again = min(2*again, time.Second) {
		conn, err := c.relink(ctx, id, port)
		if code := banger.CodeOf(err); err == nil || code == banger.CodeNotFound || code == banger.CodeWrongState || ctx.Err() != nil || errors.Is(err, stream.ErrPaused) {
			return conn, err
		}
		pause(ctx, again)
	}
}

func (c *Client) relink(ctx context.Context, id string, port uint32) (net.Conn, error) {
	link, err := unary(ctx, c.rpc.LinkVM, &bangerv1.LinkVMRequest{Ref: id, TimeoutMs: linkWait.Milliseconds(), WhilePaused: true})
	if err != nil {
		return nil, err
	}
	if link.LinkSocket == "" {
		return nil, stream.ErrPaused
	}
	conn, err := DialLink(ctx, link.LinkSocket, port)
	if err != nil {
		return nil, err
	}
	return conn, nil
}
