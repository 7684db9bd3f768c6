package guestlink

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/banger-dev/banger/internal/linkwire"
)

// readBuffer is the size of the one buffer between the data channel and what
// reads it: the VMM sends up to 32 KiB at a time.
const readBuffer = 128 << 10

// channels are one connection to each of the guest's two ports. in may hold bytes
// of an earlier session.
type channels struct {
	ctl, data net.Conn
	in        *bufio.Reader
}

// connect joins both channels, data first: the guest's answer to a doorbell
// then finds somebody to read it.
func connect(ctx context.Context, e Endpoints) (*channels, error) {
	data, err := e.Data(ctx)
	if err != nil {
		return nil, fmt.Errorf("guest link: data channel: %w", err)
	}
	ctl, err := e.Ctl(ctx)
	if err != nil {
		data.Close()
		return nil, fmt.Errorf("guest link: ctl channel: %w", err)
	}
	return &channels{ctl: ctl, data: data, in: bufio.NewReaderSize(data, readBuffer)}, nil
}

func (c *channels) close() {
	c.data.Close()
	c.ctl.Close()
}

// agree rings until the agent has answered a doorbell of kind. The agent may not have opened its
// ports yet, and an answer may be lost while the VMM changes from an earlier
// supervisor's connection to this one, so it rings again, each time after a
// longer wait and with a nonce of its own: an answer to an earlier ring is then
// nothing but bytes to be discarded, as is all that an earlier session left.
func (c *channels) agree(ctx context.Context, kind byte, payload []byte, lim limits) error {
	evicted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(evicted)
		c.data.SetDeadline(time.Unix(1, 0))
		c.ctl.SetDeadline(time.Unix(1, 0))
	})
	err := c.ringOn(ctx, kind, payload, lim)
	if !stop() {
		// A late deadline would hit whoever uses the channels next.
		<-evicted
	}
	if err != nil {
		return err
	}
	return c.data.SetDeadline(time.Time{})
}

// ringOn rings with longer and longer waits.
func (c *channels) ringOn(ctx context.Context, kind byte, payload []byte, lim limits) error {
	for wait := lim.firstRing; ; wait = min(2*wait, lim.lastRing) {
		err := c.ring(ctx, kind, payload, wait, lim.stale)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("guest link: reset: %w", err)
		}
	}
}

// ring writes one doorbell and waits for its answer behind at most stale bytes. The
// error is os.ErrDeadlineExceeded when wait is over.
func (c *channels) ring(ctx context.Context, kind byte, payload []byte, wait time.Duration, stale int64) error {
	bell := linkwire.Doorbell{Kind: kind, Payload: payload}
	if _, err := rand.Read(bell.Nonce[:]); err != nil {
		return err
	}
	deadline := time.Now().Add(wait)
	c.ctl.SetDeadline(deadline)
	c.data.SetDeadline(deadline)
	// The context may have ended between its AfterFunc and the lines above.
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := c.ctl.Write(bell.Append(nil)); err != nil {
		return fmt.Errorf("ctl channel: %w", err)
	}
	if err := linkwire.SkipTo(c.in, bell.Nonce, stale); err != nil {
		return fmt.Errorf("data channel: %w", err)
	}
	if kind == linkwire.KindEnd {
		return nil
	}
	if _, err := c.data.Write(linkwire.Preamble(bell.Nonce)); err != nil {
		return fmt.Errorf("data channel: %w", err)
	}
	return nil
}
