package guestlink_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"

	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/linkwire"
)

// counted counts the connections that a link makes.
func counted(n *atomic.Int32, connect func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		n.Add(1)
		return connect(ctx)
	}
}

// newCountedLink is a link of r and the connections it has made.
func newCountedLink(t *testing.T, r *rig) (l *guestlink.Link, ctl, data *atomic.Int32) {
	t.Helper()
	ctl, data = new(atomic.Int32), new(atomic.Int32)
	l = guestlink.New(guestlink.Endpoints{
		Ctl: counted(ctl, r.ctl.connect(t)), Data: counted(data, r.data.connect(t)),
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { l.Close() })
	return l, ctl, data
}

func wantConnections(t *testing.T, ctl, data *atomic.Int32, want int32) {
	t.Helper()
	if ctl.Load() != want || data.Load() != want {
		t.Errorf("%d connections to ctl and %d to data, want %d each", ctl.Load(), data.Load(), want)
	}
}

// However its sessions end, a link stays connected: every byte is right, and the
// VMM never sees a connection end in the middle of the guest's output.
func TestResetsKeepTheConnection(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	l, ctl, data := newCountedLink(t, r)
	var loads []load
	for range 50 {
		loads = append(loads, resetAndLoad(t, l))
	}
	wantConnections(t, ctl, data, 1)
	l.Close()
	check(t, loads)
}

// What a client does with a session while it is reset has no part in what comes
// after: it dials, writes and closes at the same time.
func TestResetsBesideClients(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	l, ctl, data := newCountedLink(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	clients := make(chan struct{}, 4)
	for range cap(clients) {
		go func() {
			defer func() { clients <- struct{}{} }()
			for ctx.Err() == nil {
				conn, err := l.Dial(ctx, linkwire.PortForward)
				if err != nil {
					<-l.Broken() // there is none yet, or it ends now
					continue
				}
				io.CopyN(io.Discard, conn, 100<<10)
				conn.Close() // in mid-output
			}
		}()
	}
	for range 50 {
		if err := l.Reset(bounded(t), nil); err != nil {
			t.Fatal(err)
		}
		roundTrip(t, l)
	}
	cancel()
	l.Close()
	for range cap(clients) {
		<-clients
	}
	wantConnections(t, ctl, data, 1)
}

func TestConnectionThatEndedIsMadeAnew(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	l, ctl, data := newCountedLink(t, r)
	if err := l.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	broken := l.Broken()
	r.data.mu.Lock()
	r.data.host.Close()
	r.data.mu.Unlock()
	<-broken
	if err := l.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, l)
	wantConnections(t, ctl, data, 2)
}

// A reset that was given up leaves nothing that would disturb the next one.
func TestResetAfterOneThatWasGivenUp(t *testing.T) {
	r := newRig(t)
	l, ctl, data := newCountedLink(t, r)
	for range 3 {
		ctx, cancel := context.WithCancelCause(context.Background())
		why := errors.New("given up")
		before := pending(t, r.ports[0])
		go func() {
			waitFor(t, func() bool { return pending(t, r.ports[0]) > before })
			cancel(why)
		}()
		if err := l.Reset(ctx, []byte("boot")); !errors.Is(err, why) {
			t.Fatalf("got %v", err)
		}
	}
	r.serve(t)
	if err := l.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, l)
	wantConnections(t, ctl, data, 1)
}
