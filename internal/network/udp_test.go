package network

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestDatagrams(t *testing.T) {
	out := newOutside(t)
	server := out.listenUDP(0, func(b []byte) []byte { return append([]byte("re:"), b...) })
	n, g := start(t, Config{NAT: true})
	conn := g.dialUDP(server)
	for _, payload := range [][]byte{[]byte("one"), nil, bytes.Repeat([]byte("x"), 60000), []byte("last")} {
		if _, err := conn.Write(payload); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		count, err := conn.Read(buf)
		if err != nil || !bytes.Equal(buf[:count], append([]byte("re:"), payload...)) {
			t.Fatalf("%d bytes sent, %d came back, %v", len(payload), count, err)
		}
	}
	if c := n.Counters(); c.Accepted != 1 || c.Open != 1 {
		t.Errorf("one flow was counted as %+v", c)
	}
}

func TestEmptyAnswer(t *testing.T) {
	out := newOutside(t)
	server := out.listenUDP(0, func([]byte) []byte { return []byte{} })
	_, g := start(t, Config{NAT: true})
	conn := g.dialUDP(server)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if count, err := conn.Read(make([]byte, 10)); err != nil || count != 0 {
		t.Fatalf("%d bytes, %v", count, err)
	}
}

func TestDatagramFlowsEnd(t *testing.T) {
	out := newOutside(t)
	server := out.listenUDP(0, func(b []byte) []byte { return b })
	n := newNet(t, Config{NAT: true})
	n.datagram.idle = 20 * time.Millisecond
	w := newWire(t, n)
	w.send(udpPacket(server, []byte("x")))
	w.next()
	eventually(t, "the idle flow ends", func() bool { return n.Counters().Open == 0 })
	w.send(udpPacket(server, []byte("again")))
	if _, packet := w.next(); !bytes.HasSuffix(packet, []byte("again")) {
		t.Errorf("after that: %x", packet)
	}
}

// A guest that opens flows without end keeps a bounded number of sockets, and
// its newest flow works.
func TestDatagramFlood(t *testing.T) {
	out := newOutside(t)
	server := out.listenUDP(0, func(b []byte) []byte { return b })
	silent := out.listenUDP(0, func([]byte) []byte { return nil })
	n := newNet(t, Config{NAT: true})
	w := newWire(t, n)
	for port := range uint16(maxDatagrams + 200) {
		frame := udpPacket(silent, []byte("x"))
		frame[34], frame[35] = byte(port>>8)+16, byte(port) // the guest's port
		w.send(frame)
	}
	w.send(udpPacket(server, []byte("newest")))
	if _, packet := w.next(); !bytes.HasSuffix(packet, []byte("newest")) {
		t.Errorf("the newest flow gives %x", packet)
	}
	eventually(t, "the oldest flows end", func() bool { return n.Counters().Open <= maxDatagrams })
}

// Only the host that the guest asked can answer.
func TestStrangerCannotAnswer(t *testing.T) {
	out := newOutside(t)
	port := make(chan netip.AddrPort, 1)
	var server *net.UDPConn
	out.do(func() (err error) {
		server, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(out.addr, 0)))
		return err
	})
	go func() {
		defer server.Close()
		if _, peer, err := server.ReadFromUDPAddrPort(make([]byte, 10)); err == nil {
			port <- peer
			if _, _, err := server.ReadFromUDPAddrPort(make([]byte, 10)); err == nil {
				_, _ = server.WriteToUDPAddrPort([]byte("server"), peer)
			}
		}
	}()
	n := newNet(t, Config{NAT: true})
	w := newWire(t, n)
	dst := server.LocalAddr().(*net.UDPAddr).AddrPort()
	w.send(udpPacket(dst, []byte("x")))
	peer := <-port
	out.do(func() error {
		stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(peer))
		if err != nil {
			return err
		}
		defer stranger.Close()
		_, err = stranger.Write([]byte("stranger"))
		return err
	})
	w.send(udpPacket(dst, []byte("y")))
	if _, packet := w.next(); !bytes.HasSuffix(packet, []byte("server")) {
		t.Errorf("the guest hears %q", packet)
	}
}
