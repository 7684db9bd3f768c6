package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
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

func TestRefusedFast(t *testing.T) {
	out := newOutside(t)
	n, g := start(t, Config{NAT: true})
	want := map[Reason]uint64{}
	for dst, reason := range map[string]Reason{
		"10.1.2.3:80": ReasonPrivate, "169.254.169.254:80": ReasonMetadata, "100.64.1.1:80": ReasonCGNAT,
		"192.168.127.1:80": ReasonGuestNet, "192.168.127.77:1": ReasonGuestNet, "240.0.0.1:1": ReasonReserved,
		out.router.String() + ":22": ReasonHost, "172.17.0.1:2375": ReasonPrivate,
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := g.dial(ctx, netip.MustParseAddrPort(dst))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", dst, err)
		}
		want[reason]++
	}
	got := n.Counters()
	for reason, count := range want {
		if got.Refused[reason] != count {
			t.Errorf("%d refused as %s, want %d", got.Refused[reason], reason, count)
		}
	}
	if again := g.stack.Stats().TCP.Retransmits.Value(); again != 0 {
		t.Errorf("the guest sent %d segments again", again)
	}
}

// The host's own address is reachable only when the config names it.
func TestHostAddressAllowed(t *testing.T) {
	out := newOutside(t)
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(out.router, 0)))
	if err != nil {
		t.Fatal(err)
	}
	server := serveTCP(t, listener, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("host")) })
	_, g := start(t, Config{NAT: true, AllowPrivate: []netip.Prefix{netip.PrefixFrom(out.router, 32)}})
	if got, err := io.ReadAll(g.mustDial(server)); err != nil || string(got) != "host" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestNATOff(t *testing.T) {
	out := newOutside(t)
	var reached atomic.Int64
	server := out.listen(func(*net.TCPConn) { reached.Add(1) })
	datagrams := out.listenUDP(0, func([]byte) []byte { reached.Add(1); return nil })
	n, g := start(t, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := g.dial(ctx, server); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("tcp: %v, want refused", err)
	}
	if _, err := g.dialUDP(datagrams).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the datagram is refused", func() bool { return n.Counters().Refused[ReasonNAT] == 2 })
	if reached.Load() != 0 {
		t.Error("something left")
	}
}

// The policy is asked again at the moment of the dial.
func TestDialAsksAgain(t *testing.T) {
	out := newOutside(t)
	var reached atomic.Int64
	server := out.listen(func(*net.TCPConn) { reached.Add(1) })
	n, err := newNetwork(Config{}, &onceDecider{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if !n.decide(Flow{Proto: ProtoTCP, Dst: server}) {
		t.Fatal("refused at first")
	}
	if _, err := n.dial(ProtoTCP, server); !errors.Is(err, errRefused) {
		t.Fatalf("%v, want refused", err)
	}
	if reached.Load() != 0 {
		t.Error("the server was reached")
	}
}

// onceDecider allows the first flow only.
type onceDecider struct{ asked atomic.Bool }

func (d *onceDecider) Decide(Flow) Verdict {
	if d.asked.Swap(true) {
		return Verdict{Reason: ReasonHost, Rule: "changed"}
	}
	return Verdict{Allow: true}
}

func TestDialIntoGuest(t *testing.T) {
	n, g := start(t, Config{})
	listener, err := gonet.ListenTCP(g.stack, fullAddress(netip.AddrPortFrom(guestAddr, 8080)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		conn.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := n.DialContext(ctx, netip.AddrPortFrom(guestAddr, 8080))
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, conn)
	if _, err := conn.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "in" {
		t.Fatalf("%q, %v", got, err)
	}
	conn.Close()
	<-served
	listener.Close()

	if _, err := n.DialContext(ctx, netip.AddrPortFrom(guestAddr, 8080)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v, want refused", err)
	}
	if _, err := n.DialContext(ctx, netip.MustParseAddrPort("1.1.1.1:80")); banger.CodeOf(err) != banger.CodeUsage {
		t.Errorf("an address outside: %v", err)
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

func TestInwardBound(t *testing.T) {
	n, g := start(t, Config{})
	listener, err := gonet.ListenTCP(g.stack, fullAddress(netip.AddrPortFrom(guestAddr, 8080)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n.inward.Store(maxInward - 1)
	dst := netip.AddrPortFrom(guestAddr, 8080)
	conn, err := n.DialContext(context.Background(), dst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.DialContext(context.Background(), dst); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("one too many: %v", err)
	}
	conn.Close()
	conn.Close() // gives its place back once
	if n.inward.Load() != maxInward-1 {
		t.Errorf("%d connections are counted", n.inward.Load())
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
