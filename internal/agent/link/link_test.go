package link

import (
	"context"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/linkwire"
	"github.com/libp2p/go-yamux/v5"
)

func TestFindPort(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"vport0p1": "banger.ctl\n", "vport1p2": "banger.data\n"} {
		if err := os.Mkdir(filepath.Join(class, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, dev, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{CtlPort: "vport0p1", DataPort: "vport1p2", "other": ""} {
		if got := findPort(class, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := findPort(filepath.Join(class, "none"), CtlPort); got != "" {
		t.Errorf("no class: %q", got)
	}
}

// clumsy is a handler that panics on one port, and notes its boots.
type clumsy struct {
	mu    sync.Mutex
	boots []string
}

func (c *clumsy) Boot(payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boots = append(c.boots, string(payload))
}

func (c *clumsy) Started() {}

func (c *clumsy) Stream(conn net.Conn, port uint32, _ func() bool) {
	if port == 13 {
		panic("unlucky")
	}
	io.Copy(conn, conn)
	conn.Close()
}

// host is the far end of a server.
type host struct{ ctl, data net.Conn }

func serve(t *testing.T, h Handler) host {
	t.Helper()
	ctlHost, ctl := net.Pipe()
	dataHost, data := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		NewServer(ctl, data, h, slog.New(slog.DiscardHandler)).Serve(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return host{ctlHost, dataHost}
}

func (h host) ring(t *testing.T, n byte, kind byte, payload string) {
	t.Helper()
	bell := linkwire.Doorbell{Nonce: linkwire.Nonce{n}, Kind: kind, Payload: []byte(payload)}
	if _, err := h.ctl.Write(bell.Append(nil)); err != nil {
		t.Fatal(err)
	}
}

// begin follows the protocol for the ring of n.
func (h host) begin(t *testing.T, n byte) *yamux.Session {
	t.Helper()
	if err := linkwire.SkipTo(h.data, linkwire.Nonce{n}, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if _, err := h.data.Write(linkwire.Preamble(linkwire.Nonce{n})); err != nil {
		t.Fatal(err)
	}
	mux, err := yamux.Client(&muxConn{data: h.data, in: h.data}, muxConfig(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mux.Close() })
	return mux
}

func dial(t *testing.T, mux *yamux.Session, port uint32) net.Conn {
	t.Helper()
	conn, err := mux.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(linkwire.AppendPort(nil, port)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestPanicEndsOneStream(t *testing.T) {
	h := serve(t, &clumsy{})
	h.ring(t, 1, linkwire.KindReset, "")
	mux := h.begin(t, 1)
	if _, err := dial(t, mux, 13).Read(make([]byte, 1)); err == nil {
		t.Error("the stream lives")
	}
	conn := dial(t, mux, 7)
	conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// A host that ends the session is told when that has happened, and can begin
// another.
func TestEndOfASession(t *testing.T) {
	h := serve(t, &clumsy{})
	h.ring(t, 1, linkwire.KindReset, "")
	mux := h.begin(t, 1)
	conn := dial(t, mux, 7)
	mux.Close()
	h.data.SetDeadline(time.Time{}) // the session's end only lent it
	h.ring(t, 2, linkwire.KindEnd, "")
	if err := linkwire.SkipTo(h.data, linkwire.Nonce{2}, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a stream lives")
	}
	h.ring(t, 3, linkwire.KindReset, "")
	again := dial(t, h.begin(t, 3), 7)
	again.Write([]byte("x"))
	if _, err := io.ReadFull(again, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// A host that rings again has given up the ring before, at whatever point.
func TestNewerDoorbellWins(t *testing.T) {
	c := &clumsy{}
	h := serve(t, c)
	h.ring(t, 1, linkwire.KindReset, "one")
	// Its preamble is not read: the server waits, with a write or for an answer.
	h.ring(t, 2, 99, "of a kind that nobody knows")
	h.ring(t, 3, linkwire.KindReset, "three")
	mux := h.begin(t, 3)
	conn := dial(t, mux, 7)
	conn.Write([]byte("x"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if last := c.boots[len(c.boots)-1]; last != "three" {
		t.Errorf("boots %q", c.boots)
	}
}
