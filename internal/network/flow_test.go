package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEcho(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	n, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("sent %d bytes, %d came back, %v", len(sent), len(got), err)
	}
	if c := n.Counters(); c.Accepted != 1 || c.BytesFrom < 3<<20 || c.BytesTo < 3<<20 || c.PacketsFrom == 0 || c.PacketsTo == 0 {
		t.Errorf("%+v", c)
	}
}

// A forwarder with few places would drop SYNs here, and each costs the guest a
// second.
func TestManyConnects(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	n, g := start(t, Config{NAT: true})
	var workers sync.WaitGroup
	begin := time.Now()
	for range 64 {
		workers.Go(func() {
			for range 8 {
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				conn, err := g.dial(ctx, server)
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				deadline(t, conn)
				var got [4]byte
				if _, err := conn.Write([]byte("ping")); err != nil {
					t.Error(err)
				} else if _, err := io.ReadFull(conn, got[:]); err != nil || string(got[:]) != "ping" {
					t.Error(err)
				}
				conn.Close()
			}
		})
	}
	workers.Wait()
	t.Logf("512 connections with a round trip in %v", time.Since(begin))
	if dropped := n.stack.Stats().TCP.ForwardMaxInFlightDrop.Value(); dropped != 0 {
		t.Errorf("%d SYNs were dropped", dropped)
	}
	if again := g.stack.Stats().TCP.Retransmits.Value(); again > 8 {
		t.Errorf("the guest sent %d segments again", again)
	}
	if c := n.Counters(); c.Accepted != 512 || c.Failed != 0 {
		t.Errorf("%+v", c)
	}
}

func TestHalfCloseByGuest(t *testing.T) {
	out := newOutside(t)
	server := out.listen(func(conn *net.TCPConn) {
		asked, _ := io.ReadAll(conn) // until the guest's end of stream
		_, _ = conn.Write(append([]byte("heard "), asked...))
	})
	_, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	if _, err := conn.Write([]byte("all")); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "heard all" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestHalfCloseByServer(t *testing.T) {
	out := newOutside(t)
	heard := make(chan string, 1)
	server := out.listen(func(conn *net.TCPConn) {
		_, _ = conn.Write([]byte("bye"))
		_ = conn.CloseWrite()
		asked, _ := io.ReadAll(conn)
		heard <- string(asked)
	})
	n, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := conn.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "still here" {
		t.Fatalf("the server heard %q", got)
	}
	eventually(t, "the flow ends", func() bool { return n.Counters().Open == 0 })
}

func TestResetReachesGuest(t *testing.T) {
	out := newOutside(t)
	server := out.listen(func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	n, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the guest reads %v, want a reset", err)
	}
	eventually(t, "the flow ends", func() bool { return n.Counters().Open == 0 })
}

func TestResetReachesServer(t *testing.T) {
	out := newOutside(t)
	read := make(chan error, 1)
	server := out.listen(func(conn *net.TCPConn) {
		_, _ = conn.Write([]byte("x"))
		_, err := io.ReadAll(conn)
		read <- err
	})
	_, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for _, ep := range g.stack.RegisteredEndpoints() {
		ep.Abort()
	}
	if err := <-read; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Fatalf("the server reads %v, want a reset", err)
	}
}

func TestClosedPortOutside(t *testing.T) {
	out := newOutside(t)
	n, g := start(t, Config{NAT: true})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := g.dial(ctx, netip.AddrPortFrom(out.addr, 9)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("%v, want refused", err)
	}
	// No route: this namespace has none to anywhere else.
	if _, err := g.dial(ctx, netip.MustParseAddrPort("192.0.2.1:80")); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("%v, want refused", err)
	}
	if c := n.Counters(); c.Failed != 2 {
		t.Errorf("%+v", c)
	}
}

// Nothing is lost, and little is taken, when the server reads late.
func TestBackPressure(t *testing.T) {
	out := newOutside(t)
	release := make(chan struct{})
	total := make(chan int64, 1)
	server := out.listen(func(conn *net.TCPConn) {
		_ = conn.SetReadBuffer(64 << 10)
		<-release
		count, _ := io.Copy(io.Discard, conn)
		total <- count
	})
	_, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	var written atomic.Int64
	sent := make(chan error, 1)
	const size = 64 << 20
	go func() {
		chunk := make([]byte, 64<<10)
		for range size / len(chunk) {
			if _, err := conn.Write(chunk); err != nil {
				sent <- err
				return
			}
			written.Add(int64(len(chunk)))
		}
		sent <- conn.CloseWrite()
	}()
	eventually(t, "the writer stops", func() bool {
		before := written.Load()
		select {
		case <-sent:
			t.Fatal("all was taken though nobody reads")
		case <-time.After(200 * time.Millisecond):
		}
		return before > 0 && before == written.Load()
	})
	t.Logf("%d KiB on the way", written.Load()>>10)
	close(release)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if got := <-total; got != size {
		t.Fatalf("%d of %d bytes arrived", got, size)
	}
}

// eventually waits for what no event tells: another goroutine's last steps.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for limit := time.After(30 * time.Second); !ok(); {
		select {
		case <-again.C:
		case <-limit:
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// With many flows each gets little, none nothing, and all of it comes back.
func TestBudget(t *testing.T) {
	b := newBudget()
	var sizes []int
	for size, ok := b.take(); ok; size, ok = b.take() {
		sizes = append(sizes, size)
	}
	total := 0
	for _, size := range sizes {
		total += size
	}
	if len(sizes) != maxFlows || sizes[0] != maxFlowBuffer || sizes[maxFlows-1] != minFlowBuffer || total > bufferBudget+maxFlows*minFlowBuffer {
		t.Errorf("%d flows, from %d to %d bytes, %d in all", len(sizes), sizes[0], sizes[len(sizes)-1], total)
	}
	for _, size := range sizes {
		b.give(size)
	}
	if size, ok := b.take(); !ok || size != maxFlowBuffer {
		t.Errorf("after that %d, %v", size, ok)
	}
}
