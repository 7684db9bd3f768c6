package guestlink

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
)

// rogue is a guest that keeps to the reset protocol and then does as it likes.
type rogue struct {
	ctl, data net.Conn // the guest's ends
	link      *Link
	log       *logged
}

// logged keeps what a link logged.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newRogue(t *testing.T, adjust func(*limits)) *rogue {
	t.Helper()
	r := &rogue{log: &logged{}}
	var near [2]net.Conn
	near[0], r.ctl = tcpPair(t)
	near[1], r.data = tcpPair(t)
	give := func(c net.Conn) func(context.Context) (net.Conn, error) {
		return func(context.Context) (net.Conn, error) { return c, nil }
	}
	r.link = New(Endpoints{Ctl: give(near[0]), Data: give(near[1])}, slog.New(slog.NewTextHandler(r.log, nil)))
	if adjust != nil {
		adjust(&r.link.limits)
	}
	t.Cleanup(func() { r.link.Close() })
	return r
}

// tcpPair returns both ends of a loopback connection.
func tcpPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// begin brings the link to a session that the guest's raw bytes then reach.
func (r *rogue) begin(t *testing.T) {
	t.Helper()
	answered := make(chan error, 1)
	go func() { answered <- r.answer() }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.link.Reset(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Fatal(err)
	}
}

// answer answers the first doorbell.
func (r *rogue) answer() error {
	var scanner linkwire.Scanner
	buf := make([]byte, 4<<10)
	for {
		n, err := r.ctl.Read(buf)
		if err != nil {
			return err
		}
		scanner.Write(buf[:n])
		bell, ok := scanner.Next()
		if !ok {
			continue
		}
		if _, err := r.data.Write(linkwire.Preamble(bell.Nonce)); err != nil {
			return err
		}
		return linkwire.SkipTo(r.data, bell.Nonce, math.MaxInt64)
	}
}

func frame(kind, flags byte, stream, length uint32, body ...byte) []byte {
	b := []byte{0, kind, 0, flags}
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, body...)
}

// flood writes block until the host hangs up.
func (r *rogue) flood(block []byte) {
	go io.Copy(io.Discard, r.data)
	for {
		if _, err := r.data.Write(block); err != nil {
			return
		}
	}
}

func TestAbuseEndsTheSessionOnly(t *testing.T) {
	// Stream 1 is the first that the host opens; it is not open here.
	for name, abuse := range map[string]struct {
		block []byte
		cause string
	}{
		"pings":            {frame(framePing, flagSYN, 0, 7), "too many pings"},
		"answers to pings": {frame(framePing, 2, 0, 7), "too many pings"},
		"a stream":         {frame(frameWindow, flagSYN, 2, 0), "opened a stream"},
		"a stream of ours": {frame(frameData, flagSYN, 1, 4, 1, 2, 3, 4), "opened a stream"},
		"window updates":   {frame(frameWindow, 0, 1, 1), "control frames"},
		"empty data":       {frame(frameData, 0, 1, 0), "control frames"},
		"small stray data": {frame(frameData, 0, 9, 1, 'x'), "control frames"},
		"stray data":       {frame(frameData, 0, 9, 64<<10, make([]byte, 64<<10)...), "closed streams"},
		"a giant frame":    {frame(frameData, 0, 1, 1<<31), "at most"},
		"a version":        {append([]byte{7}, make([]byte, 11)...), "version 7"},
		"a type":           {frame(9, 0, 0, 0), "type 9"},
		"junk":             {bytes.Repeat([]byte("\xffjunk"), 1000), "version 255"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRogue(t, nil)
			r.begin(t)
			before := runtime.NumGoroutine()
			broken := r.link.Broken()
			go r.flood(bytes.Repeat(abuse.block, max(1, 32<<10/len(abuse.block))))
			<-broken
			r.link.Close()
			if got := r.log.String(); !strings.Contains(got, abuse.cause) {
				t.Errorf("log %q has no %q", got, abuse.cause)
			}
			if after := runtime.NumGoroutine(); after > before+4 {
				t.Errorf("%d goroutines, %d before", after, before)
			}
		})
	}
}

// A guest that floods a stream which nobody reads, in the smallest frames, can
// hold a window's worth and no more.
func TestUnreadStreamHoldsAWindow(t *testing.T) {
	r := newRogue(t, nil)
	r.begin(t)
	conn, err := r.link.Dial(context.Background(), linkwire.PortExec)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	broken := r.link.Broken()
	go r.flood(bytes.Repeat(frame(frameData, 0, 1, 1, 'x'), 4000))
	<-broken
	got, err := io.Copy(io.Discard, conn)
	if err == nil || got > int64(r.link.limits.window) {
		t.Errorf("read %d bytes: %v", got, err)
	}
}

func TestStalledWriteEndsTheSession(t *testing.T) {
	r := newRogue(t, func(l *limits) { l.writeStall = 50 * time.Millisecond })
	r.begin(t)
	conn, err := r.link.Dial(context.Background(), linkwire.PortExec)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// A guest that grants any window and reads nothing.
	if _, err := r.data.Write(frame(frameWindow, 2, 1, 1<<30)); err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for err == nil {
		_, err = conn.Write(block)
	}
	<-r.link.Broken()
	if _, err := r.link.Dial(context.Background(), linkwire.PortExec); !errors.Is(err, driver.ErrNoSession) {
		t.Errorf("got %v", err)
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	r := newRogue(t, nil)
	r.begin(t)
	// A guest that acknowledges nothing: the places for that run out.
	for range unaccepted {
		if _, err := r.link.Dial(context.Background(), linkwire.PortExec); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.link.Dial(ctx, linkwire.PortExec); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// FuzzInspector proves that what the inspector lets through is whole frames
// that keep the rules, and that it and yamux survive anything.
func FuzzInspector(f *testing.F) {
	f.Add(frame(frameWindow, 2, 1, 100))
	f.Add(frame(frameData, 0, 1, 3, 'a', 'b', 'c'))
	f.Add(append(frame(framePing, 1, 0, 1), frame(frameGoAway, 0, 0, 0)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		lim := defaultLimits()
		// One byte at a time and all at once give the same verdict.
		whole := inspectAll(bytes.NewReader(in), lim)
		single := inspectAll(&oneByte{in}, lim)
		if (whole == nil) != (single == nil) {
			t.Fatalf("whole: %v, by bytes: %v", whole, single)
		}
		near, far := net.Pipe()
		mux, err := yamux.Client(&muxConn{data: near, in: newInspector(near, lim, func(uint32) bool { return false }, time.Now)}, muxConfig(lim), nil)
		if err != nil {
			t.Fatal(err)
		}
		drained := make(chan struct{})
		go func() { defer close(drained); io.Copy(io.Discard, far) }()
		far.Write(in)
		far.Close()
		<-mux.CloseChan()
		mux.Close()
		<-drained
	})
}

func inspectAll(r io.Reader, lim limits) error {
	at := time.Now()
	in := newInspector(r, lim, func(uint32) bool { return true }, func() time.Time { return at })
	_, err := io.Copy(io.Discard, in)
	return err
}

type oneByte struct{ b []byte }

func (o *oneByte) Read(p []byte) (int, error) {
	if len(o.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:1], o.b)
	o.b = o.b[n:]
	return n, nil
}
