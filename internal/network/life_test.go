package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
)

// A connection outlives the loss of the wire, as it does a pulled cable.
func TestFlowOutlivesReattach(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	n := newNet(t, Config{NAT: true})
	g := newGuest(t)
	unplug := g.plug(context.Background(), n)
	conn := g.mustDial(server)
	roundTrip(t, conn)
	if err := unplug(); err != nil {
		t.Fatal(err)
	}
	unplug = g.plug(context.Background(), n)
	roundTrip(t, conn)
	if err := unplug(); err != nil {
		t.Fatal(err)
	}
}

// A new network, as a supervisor's successor makes one, serves a guest that
// knew the old: new flows work at once, old ones are reset.
func TestSuccessor(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	g := newGuest(t)
	first := newNet(t, Config{NAT: true})
	unplug := g.plug(context.Background(), first)
	old := g.mustDial(server)
	roundTrip(t, old)
	if err := unplug(); err != nil {
		t.Fatal(err)
	}
	first.Close()

	unplug = g.plug(context.Background(), newNet(t, Config{NAT: true}))
	defer unplug()
	roundTrip(t, g.mustDial(server))
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a flow of the old network reads %v, want a reset", err)
	}
}

func roundTrip(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
}

// Close in the middle of everything leaves nothing: no goroutine, no
// descriptor.
func TestCloseLeavesNothing(t *testing.T) {
	out := newOutside(t)
	tcpServer := out.listen(echo)
	udpServer := out.listenUDP(0, func(b []byte) []byte { return b })
	silent := out.listenUDP(0, func([]byte) []byte { return nil })
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 5 {
		n, err := New(Config{NAT: true, DNSUpstream: silent.String()})
		if err != nil {
			t.Fatal(err)
		}
		closeInTheMiddle(t, n, out, tcpServer, udpServer)
	}
	eventually(t, "every goroutine ends", func() bool { return runtime.NumGoroutine() <= goroutines })
	eventually(t, "every descriptor is closed", func() bool { return openFiles(t) <= files })
}

// closeInTheMiddle closes n while a flow is open, a datagram flow is open, a
// handshake waits for the guest, a dial waits for a host that is not there, a
// query waits for its server, and a connection into the guest for the guest.
func closeInTheMiddle(t *testing.T, n *Network, out *outside, tcpServer, udpServer netip.AddrPort) {
	t.Helper()
	ours, theirs, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	attached := make(chan error, 1)
	go func() { attached <- n.Attach(context.Background(), theirs) }()
	w := &wire{t: t, conn: ours}
	w.answers()
	nobody := netip.AddrPortFrom(out.nobody, 80)
	w.send(synPacket(tcpServer), synPacket(nobody), udpPacket(udpServer, []byte("x")),
		udpPacket(netip.AddrPortFrom(gatewayAddr, dnsPort), question("example.org.")))
	eventually(t, "the flows begin", func() bool { return n.Counters().Accepted == 4 })
	dialled := make(chan error, 1)
	go func() {
		_, err := n.DialContext(context.Background(), netip.AddrPortFrom(guestAddr, 80))
		dialled <- err
	}()
	eventually(t, "the handshake begins", func() bool { return len(n.stack.RegisteredEndpoints()) >= 2 })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-attached; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Attach: %v", err)
	}
	if err := <-dialled; !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialContext: %v", err)
	}
	ours.Close()
	if err := n.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Established flows end with Close too, on both sides.
func TestCloseEndsFlows(t *testing.T) {
	out := newOutside(t)
	ended := make(chan error, 1)
	server := out.listen(func(conn *net.TCPConn) {
		_, err := io.Copy(conn, conn)
		ended <- err
	})
	n := newNet(t, Config{NAT: true})
	g := newGuest(t)
	unplug := g.plug(context.Background(), n)
	defer unplug()
	roundTrip(t, g.mustDial(server))
	n.Close()
	<-ended
	if c := n.Counters(); c.Open != 0 {
		t.Errorf("%+v", c)
	}
}

func TestBadUpstream(t *testing.T) {
	for _, upstream := range []string{"9.9.9.9", "dns.example:53", "9.9.9.9:0", ":53", "x"} {
		if n, err := New(Config{DNSUpstream: upstream}); err == nil {
			n.Close()
			t.Errorf("%q is taken", upstream)
		}
	}
}
