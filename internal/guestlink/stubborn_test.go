package guestlink

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/linkwire"
)

// lives is a VMM whose guest gets new channels with each connection, so that a
// test can be another guest on each.
type lives struct {
	link  *Link
	guest []*rogue
}

// newLives returns a link with adjusted limits; made is called with the guest's
// ends of each pair of connections.
func newLives(t *testing.T, adjust func(*limits), made func(n int, guest *rogue)) *lives {
	t.Helper()
	v := &lives{}
	v.link = New(Endpoints{
		Data: func(context.Context) (net.Conn, error) {
			near, far := tcpPair(t)
			v.guest = append(v.guest, &rogue{data: far})
			return near, nil
		},
		Ctl: func(context.Context) (net.Conn, error) {
			near, far := tcpPair(t)
			n := len(v.guest) - 1
			v.guest[n].ctl = far
			made(n, v.guest[n])
			return near, nil
		},
	}, slog.New(slog.DiscardHandler))
	adjust(&v.link.limits)
	t.Cleanup(func() { v.link.Close() })
	return v
}

func (v *lives) mustReset(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := v.link.Reset(ctx, nil); err != nil {
		t.Fatal(err)
	}
}

// A guest that answers once and then never again over the same connection is
// given its time, and another connection; that one is waited for as ever.
func TestSilentConnectionIsMadeAnew(t *testing.T) {
	lim := func(l *limits) { l.firstRing, l.kept = time.Millisecond, 50*time.Millisecond }
	v := newLives(t, lim, func(_ int, guest *rogue) { go guest.answer() })
	v.mustReset(t)
	v.mustReset(t)
	if len(v.guest) != 2 {
		t.Errorf("%d connections", len(v.guest))
	}
}

// A guest that floods the kept connection, and never says the nonce, costs no more
// than the bytes and the time allowed, and the next reset has a fresh connection.
func TestFloodWithoutAnAnswer(t *testing.T) {
	lim := func(l *limits) { l.stale = 1 << 20 }
	v := newLives(t, lim, func(n int, guest *rogue) {
		go func() {
			guest.answer()
			if n == 0 {
				guest.flood(make([]byte, 32<<10))
			}
		}()
	})
	v.mustReset(t)
	<-v.link.Broken() // at too many frames without data, which zeros are
	err := v.link.Reset(t.Context(), nil)
	if !errors.Is(err, linkwire.ErrNoPreamble) || len(v.guest) != 1 {
		t.Fatalf("%d connections, %v", len(v.guest), err)
	}
	if _, err := v.link.Dial(t.Context(), linkwire.PortExec); !errors.Is(err, driver.ErrNoSession) {
		t.Errorf("got %v", err)
	}
	v.mustReset(t)
	if len(v.guest) != 2 {
		t.Errorf("%d connections", len(v.guest))
	}
}

// A session that is stuck in the middle of a write is over at once when the link
// is reset, and the half frame that it leaves hurts nobody.
func TestResetInTheMiddleOfABlockedWrite(t *testing.T) {
	lim := func(l *limits) { l.writeStall, l.firstRing = time.Hour, 30*time.Second }
	v := newLives(t, lim, func(_ int, guest *rogue) { go guest.answer() })
	v.mustReset(t)
	guest := v.guest[0]
	conn, err := v.link.Dial(t.Context(), linkwire.PortExec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := guest.data.Write(frame(frameWindow, 2, 1, 1<<30)); err != nil {
		t.Fatal(err)
	}
	// Nobody reads the guest's end: the writer stops in the middle of a frame.
	for block := make([]byte, 1<<20); err == nil; {
		conn.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		_, err = conn.Write(block)
	}
	answered := make(chan error, 1)
	go func() { answered <- guest.answer() }()
	v.mustReset(t)
	if err := <-answered; err != nil || len(v.guest) != 1 {
		t.Errorf("%d connections, %v", len(v.guest), err)
	}
	if _, err := v.link.Dial(t.Context(), linkwire.PortExec); err != nil {
		t.Error(err)
	}
	firstStream(t, guest.data)
}

// firstStream reads what a new session sends behind the nonce: whole frames, of
// which the first that is no ping opens stream 1.
func firstStream(t *testing.T, data net.Conn) {
	t.Helper()
	data.SetReadDeadline(time.Now().Add(30 * time.Second))
	var header [frameHeader]byte
	for header[1] = framePing; header[1] == framePing; {
		if _, err := io.ReadFull(data, header[:]); err != nil {
			t.Fatal(err)
		}
	}
	if header[0] != 0 || header[1] != frameWindow || header[3] != flagSYN || header[7] != 1 {
		t.Errorf("header % x", header)
	}
}
