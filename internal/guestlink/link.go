// Package guestlink is the host's end of the guest link on a VMM with two
// virtio-serial ports: it speaks the reset protocol of internal/linkwire and
// carries streams to guest ports over one yamux session.
//
// Everything that comes in is written by an untrusted guest. A session's
// memory is bounded by the number of streams that the host opened, and an
// inspector below yamux ends the session at the first frame that a well-behaved
// agent never sends. Nothing a guest does ends more than the session.
//
// A session's end leaves the connections to the VMM as they are, and the next
// session is agreed on over the same ones: a VMM may lose something of a port for
// good each time that a connection ends in the middle of the guest's output (see
// package qemu), and a guest must not be able to use that up by breaking sessions.
package guestlink

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/linkwire"
)

// errSilent is why a connection is given up.
var errSilent = errors.New("the guest does not answer over the present connection")

// dialTimeout bounds Dial: an agent acknowledges a stream at once, so a guest
// that takes longer hangs.
const dialTimeout = 30 * time.Second

// Endpoints connect to the two channels of a guest. Each call makes a new
// connection, and the VMM drops bytes of the one before. A link calls them at its
// first Reset, and again when a connection serves no more.
type Endpoints struct {
	Ctl, Data func(ctx context.Context) (net.Conn, error)
}

// Link implements driver.Link.
type Link struct {
	endpoints Endpoints
	log       *slog.Logger
	limits    limits

	// turn holds one token: Reset and Close run one at a time.
	turn chan struct{}
	// ch are the channels, kept from session to session; nil without a
	// connection. They belong to who has the turn.
	ch *channels

	mu      sync.Mutex
	session *session
	closed  bool
}

var _ driver.Link = (*Link)(nil)

// New returns a link without a session. It connects at the first Reset.
func New(endpoints Endpoints, log *slog.Logger) *Link {
	l := &Link{endpoints: endpoints, log: log, limits: defaultLimits(), turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

// Reset implements driver.Link. Besides the context's error it returns what
// went wrong with the channels, which means that the VMM is gone.
func (l *Link) Reset(ctx context.Context, payload []byte) error {
	if len(payload) > linkwire.MaxPayload {
		return fmt.Errorf("guest link: boot message of %d bytes, at most %d", len(payload), linkwire.MaxPayload)
	}
	select {
	case <-l.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { l.turn <- struct{}{} }()

	l.replace(nil)
	if l.isClosed() {
		return net.ErrClosed
	}
	if err := l.agree(ctx, payload); err != nil {
		return err
	}
	s, err := newSession(l.ch, l.limits, l.log)
	if err != nil {
		l.disconnect()
		return fmt.Errorf("guest link: %w", err)
	}
	l.replace(s)
	return nil
}

// agree brings the channels to where a session can start. It connects if there is
// no connection yet, or if the one of the session before has ended or stays
// silent. The caller has the turn.
func (l *Link) agree(ctx context.Context, payload []byte) error {
	var lost error
	if l.ch != nil {
		bounded, cancel := context.WithTimeoutCause(ctx, l.limits.kept, errSilent)
		lost = l.ring(bounded, payload)
		cancel()
		if lost == nil || ctx.Err() != nil || errors.Is(lost, linkwire.ErrNoPreamble) {
			return lost
		}
		l.disconnect()
	}
	var err error
	if l.ch, err = connect(ctx, l.endpoints); err != nil {
		return err
	}
	if lost != nil {
		l.log.Info("the guest link is connected anew", "cause", lost)
	}
	return l.ring(ctx, payload)
}

// ring resets over the present channels. They are kept when nothing but the time
// was over: whatever is on them, the next nonce is found behind it.
func (l *Link) ring(ctx context.Context, payload []byte) error {
	err := l.ch.agree(ctx, linkwire.KindReset, payload, l.limits)
	if err != nil && ctx.Err() == nil {
		l.disconnect()
	}
	return err
}

// disconnect lets go of the channels, if there are any. The caller has the turn,
// and no session uses them.
func (l *Link) disconnect() {
	if l.ch != nil {
		l.ch.close()
		l.ch = nil
	}
}

// replace ends the present session, waits for its goroutines, and puts s in
// its place.
func (l *Link) replace(s *session) {
	l.mu.Lock()
	old := l.session
	l.session = s
	l.mu.Unlock()
	if old != nil {
		old.end()
	}
}

func (l *Link) current() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session
}

func (l *Link) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// Dial implements driver.Link. The stream has CloseWrite besides the methods of
// a net.Conn. The error is a *banger.Error when too many streams are open.
func (l *Link) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	s := l.current()
	if s == nil {
		return nil, driver.ErrNoSession
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout,
		banger.Errorf(banger.CodeTimeout, "the guest's agent took no connection within %s", dialTimeout))
	defer cancel()
	return s.dial(ctx, port)
}

// Broken implements driver.Link.
func (l *Link) Broken() <-chan struct{} {
	if s := l.current(); s != nil {
		return s.mux.CloseChan()
	}
	none := make(chan struct{})
	close(none)
	return none
}

// End implements driver.Link.
func (l *Link) End(ctx context.Context) error {
	select {
	case <-l.turn:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { l.turn <- struct{}{} }()
	l.replace(nil)
	if l.ch == nil {
		return nil
	}
	if err := l.ch.agree(ctx, linkwire.KindEnd, nil, l.limits); err != nil {
		l.disconnect()
		return err
	}
	return nil
}

// Close implements driver.Link. It waits for a Reset under way.
func (l *Link) Close() error {
	<-l.turn
	defer func() { l.turn <- struct{}{} }()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.replace(nil)
	l.disconnect()
	return nil
}
