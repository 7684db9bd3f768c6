package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// wire is a guest that writes its frames by hand.
type wire struct {
	t    testing.TB
	conn net.Conn
	done chan error // what Attach returned
}

func newWire(t testing.TB, n *Network) *wire {
	t.Helper()
	ours, theirs := socketPair(t)
	w := &wire{t: t, conn: ours, done: make(chan error, 1)}
	deadline(t, ours)
	go func() { w.done <- n.Attach(context.Background(), theirs) }()
	return w
}

// send writes frames, each after its length.
func (w *wire) send(frames ...[]byte) {
	w.t.Helper()
	if _, err := w.conn.Write(stream(frames...)); err != nil {
		w.t.Fatal(err)
	}
}

func stream(frames ...[]byte) []byte {
	var all []byte
	for _, frame := range frames {
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(frame))), frame...)
	}
	return all
}

// next returns the network's next frame: its kind and what follows the Ethernet
// header.
func (w *wire) next() (tcpip.NetworkProtocolNumber, []byte) {
	w.t.Helper()
	kind, payload, err := w.read()
	if err != nil {
		w.t.Fatal(err)
	}
	return kind, payload
}

func (w *wire) read() (tcpip.NetworkProtocolNumber, []byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(w.conn, length[:]); err != nil {
		return 0, nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(w.conn, frame); err != nil {
		return 0, nil, err
	}
	eth := header.Ethernet(frame)
	if eth.SourceAddress() != gatewayMAC || eth.DestinationAddress() != guestMAC {
		return 0, nil, fmt.Errorf("a frame from %s to %s", eth.SourceAddress(), eth.DestinationAddress())
	}
	return eth.Type(), frame[header.EthernetMinimumSize:], nil
}

// nextICMP returns the next frame's ICMP message, whose sums must be right.
func (w *wire) nextICMP() header.ICMPv4 {
	w.t.Helper()
	kind, payload := w.next()
	ip := header.IPv4(payload)
	if kind != header.IPv4ProtocolNumber || ip.TransportProtocol() != header.ICMPv4ProtocolNumber || !ip.IsChecksumValid() {
		w.t.Fatalf("not a good ICMP packet: %x", payload)
	}
	icmp := header.ICMPv4(ip.Payload())
	if checksum.Checksum(icmp, 0) != 0xffff {
		w.t.Errorf("bad ICMP checksum in %x", icmp)
	}
	return icmp
}

// answers checks that the network still serves: it asks who the gateway is.
func (w *wire) answers() {
	w.t.Helper()
	w.send(arpRequest(gatewayAddr))
	for {
		if kind, payload := w.next(); kind == header.ARPProtocolNumber {
			arp := header.ARP(payload)
			if arp.Op() != header.ARPReply || !bytes.Equal(arp.HardwareAddressSender(), []byte(gatewayMAC)) {
				w.t.Errorf("ARP answer %x", payload)
			}
			return
		}
	}
}

func etherFrame(dst tcpip.LinkAddress, kind tcpip.NetworkProtocolNumber, payload []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{SrcAddr: guestMAC, DstAddr: dst, Type: kind})
	return append(frame, payload...)
}

func arpRequest(target netip.Addr) []byte {
	arp := make(header.ARP, header.ARPSize)
	arp.SetIPv4OverEthernet()
	arp.SetOp(header.ARPRequest)
	copy(arp.HardwareAddressSender(), guestMAC)
	copy(arp.ProtocolAddressSender(), guestAddr.AsSlice())
	copy(arp.ProtocolAddressTarget(), target.AsSlice())
	return etherFrame(header.EthernetBroadcastAddress, header.ARPProtocolNumber, arp)
}

func ipPacket(src, dst netip.Addr, proto tcpip.TransportProtocolNumber, payload []byte) []byte {
	ip := make(header.IPv4, header.IPv4MinimumSize, header.IPv4MinimumSize+len(payload))
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + len(payload)), TTL: 64, Protocol: uint8(proto),
		SrcAddr: tcpip.AddrFrom4(src.As4()), DstAddr: tcpip.AddrFrom4(dst.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return etherFrame(gatewayMAC, header.IPv4ProtocolNumber, append(ip, payload...))
}

func udpPacket(dst netip.AddrPort, payload []byte) []byte {
	datagram := make(header.UDP, header.UDPMinimumSize, header.UDPMinimumSize+len(payload))
	datagram.Encode(&header.UDPFields{
		SrcPort: 4000, DstPort: dst.Port(), Length: uint16(header.UDPMinimumSize + len(payload)),
	})
	return ipPacket(guestAddr, dst.Addr(), header.UDPProtocolNumber, append(datagram, payload...))
}

func synPacket(dst netip.AddrPort) []byte {
	segment := make(header.TCP, header.TCPMinimumSize)
	segment.Encode(&header.TCPFields{
		SrcPort: 4000, DstPort: dst.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize,
		Flags: header.TCPFlagSyn, WindowSize: 65535,
	})
	return ipPacket(guestAddr, dst.Addr(), header.TCPProtocolNumber, segment)
}

func pingPacket(dst netip.Addr) []byte {
	echo := make(header.ICMPv4, header.ICMPv4MinimumSize, 64)
	echo.SetType(header.ICMPv4Echo)
	echo.SetIdent(7)
	echo = append(echo, "payload"...)
	echo.SetChecksum(^checksum.Checksum(echo, 0))
	return ipPacket(guestAddr, dst, header.ICMPv4ProtocolNumber, echo)
}

func newNet(t testing.TB, cfg Config) *Network {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestPing(t *testing.T) {
	w := newWire(t, newNet(t, Config{NAT: true}))
	w.send(pingPacket(gatewayAddr))
	if icmp := w.nextICMP(); icmp.Type() != header.ICMPv4EchoReply || icmp.Ident() != 7 || !bytes.HasSuffix(icmp, []byte("payload")) {
		t.Errorf("the gateway answers %x", icmp)
	}
	w.send(pingPacket(netip.MustParseAddr("1.1.1.1")))
	if icmp := w.nextICMP(); icmp.Type() != header.ICMPv4DstUnreachable || icmp.Code() != header.ICMPv4AdminProhibited {
		t.Errorf("a host outside answers %x", icmp)
	}
}

// A refused datagram comes back as unreachable, with the guest's own packet in
// it, whoever refused it: the policy, or the host outside.
func TestUnreachable(t *testing.T) {
	out := newOutside(t)
	w := newWire(t, newNet(t, Config{NAT: true}))
	for _, dst := range []netip.AddrPort{
		netip.MustParseAddrPort("10.0.0.1:9"), netip.AddrPortFrom(gatewayAddr, 9), netip.AddrPortFrom(out.addr, 9),
	} {
		w.send(udpPacket(dst, []byte("hello")))
		icmp := w.nextICMP()
		if icmp.Type() != header.ICMPv4DstUnreachable || icmp.Code() != header.ICMPv4PortUnreachable {
			t.Fatalf("%s: %x", dst, icmp)
		}
		ip := header.IPv4(icmp.Payload())
		datagram := header.UDP(ip.Payload())
		if netipAddr(ip.DestinationAddress()) != dst.Addr() || datagram.DestinationPort() != dst.Port() || datagram.SourcePort() != 4000 {
			t.Errorf("%s: quotes %x", dst, icmp.Payload())
		}
	}
}

func TestARP(t *testing.T) {
	w := newWire(t, newNet(t, Config{}))
	w.answers()
	w.send(arpRequest(guestAddr)) // the guest's own: no answer
	w.send(arpRequest(netip.MustParseAddr("10.0.0.1")))
	w.send(arpRequest(netip.MustParseAddr("192.168.127.99")))
	kind, payload := w.next()
	if sender := header.ARP(payload).ProtocolAddressSender(); kind != header.ARPProtocolNumber || !bytes.Equal(sender, []byte{192, 168, 127, 99}) {
		t.Errorf("answer %x", payload)
	}
}

func TestMalformedFrames(t *testing.T) {
	n := newNet(t, Config{NAT: true})
	w := newWire(t, n)
	ip := ipPacket(guestAddr, gatewayAddr, header.TCPProtocolNumber, nil)
	longer := bytes.Clone(ip)
	binary.BigEndian.PutUint16(longer[16:], 4000)
	header0 := bytes.Clone(ip)
	header0[14] = 0x40
	w.send(
		nil, []byte{1}, make([]byte, 4), make([]byte, 13), // too short
		make([]byte, maxFrame+1), make([]byte, maxSkipped), // too long
		etherFrame(gatewayMAC, header.IPv4ProtocolNumber, nil),
		etherFrame(gatewayMAC, header.IPv4ProtocolNumber, []byte{0x45}),
		etherFrame(gatewayMAC, header.ARPProtocolNumber, make([]byte, 27)),
		etherFrame(gatewayMAC, header.ARPProtocolNumber, make([]byte, 28)),
		longer, header0,
	)
	w.answers()
	if c := n.Counters(); c.Malformed != 12 {
		t.Errorf("%d frames were malformed, want 12", c.Malformed)
	}
}

func TestIgnoredFrames(t *testing.T) {
	n := newNet(t, Config{NAT: true})
	w := newWire(t, n)
	ip := ipPacket(guestAddr, gatewayAddr, header.TCPProtocolNumber, nil)
	w.send(
		etherFrame(gatewayMAC, header.IPv6ProtocolNumber, make([]byte, 60)),
		etherFrame("\x02\x00\x00\x00\x00\x01", header.IPv4ProtocolNumber, ip[14:]), // another station
		ipPacket(netip.MustParseAddr("192.168.127.3"), gatewayAddr, header.TCPProtocolNumber, nil),
		ipPacket(guestAddr, netip.MustParseAddr("224.0.0.251"), header.UDPProtocolNumber, nil),
		ipPacket(guestAddr, netip.MustParseAddr("255.255.255.255"), header.UDPProtocolNumber, nil),
		ipPacket(guestAddr, netip.MustParseAddr("192.168.127.255"), header.UDPProtocolNumber, nil),
		make([]byte, maxFrame),
	)
	w.answers()
	if c := n.Counters(); c.Ignored != 7 || c.Malformed != 0 {
		t.Errorf("%+v", c)
	}
}

// What is a good IPv4 packet around a bad one of the next protocol is the
// stack's to survive.
func TestMalformedTransport(t *testing.T) {
	w := newWire(t, newNet(t, Config{NAT: true}))
	w.send(
		ipPacket(guestAddr, gatewayAddr, header.TCPProtocolNumber, nil),
		ipPacket(guestAddr, gatewayAddr, header.UDPProtocolNumber, make([]byte, 3)),
		ipPacket(guestAddr, gatewayAddr, header.UDPProtocolNumber, make([]byte, 8)), // a length of 0
		ipPacket(guestAddr, gatewayAddr, header.ICMPv4ProtocolNumber, make([]byte, 3)),
		ipPacket(guestAddr, netip.MustParseAddr("1.1.1.1"), header.ICMPv4ProtocolNumber, nil),
		ipPacket(guestAddr, gatewayAddr, 47, make([]byte, 40)),
	)
	w.answers()
}

func TestStreamOutOfStep(t *testing.T) {
	n := newNet(t, Config{})
	w := newWire(t, n)
	if _, err := w.conn.Write([]byte{0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if err := <-w.done; err == nil || errors.Is(err, net.ErrClosed) {
		t.Fatalf("Attach: %v", err)
	}
	newWire(t, n).answers()
}

func TestAttachEnds(t *testing.T) {
	n := newNet(t, Config{})
	w := newWire(t, n)
	w.answers()
	_, second := socketPair(t)
	if err := n.Attach(context.Background(), second); banger.CodeOf(err) != banger.CodeWrongState {
		t.Errorf("a second Attach: %v", err)
	}
	w.conn.Write([]byte{0, 0})
	w.conn.Close() // in the middle of a length
	if err := <-w.done; err != nil {
		t.Errorf("the other end closed: %v", err)
	}

	ctx, cancel := context.WithCancel(context.Background())
	_, third := socketPair(t)
	cancel()
	if err := n.Attach(ctx, third); !errors.Is(err, context.Canceled) {
		t.Errorf("ctx ended: %v", err)
	}

	w = newWire(t, n)
	w.answers()
	n.Close()
	if err := <-w.done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	_, fourth := socketPair(t)
	if err := n.Attach(context.Background(), fourth); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := n.DialContext(context.Background(), netip.AddrPortFrom(guestAddr, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("DialContext after Close: %v", err)
	}
}

// A guest that takes nothing (a paused VM) holds nobody up.
func TestStalledGuest(t *testing.T) {
	n := newNet(t, Config{})
	w := newWire(t, n)
	w.answers()
	ping := pingPacket(gatewayAddr)
	big := ipPacket(guestAddr, gatewayAddr, header.ICMPv4ProtocolNumber, append(bytes.Clone(ping[34:42]), make([]byte, 60000)...))
	icmp := header.ICMPv4(big[34:])
	icmp.SetChecksum(0)
	icmp.SetChecksum(^checksum.Checksum(icmp, 0))
	go func() {
		for range 400 {
			if _, err := w.conn.Write(stream(big)); err != nil {
				return
			}
		}
	}()
	eventually(t, "frames are dropped", func() bool { return n.Counters().Lost > 100 })
	// It goes on once it takes frames again. What was dropped on the way there
	// may be an answer, so the guest asks more than once, as guests do.
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for {
			kind, _, err := w.read()
			if err != nil || kind == header.ARPProtocolNumber {
				return
			}
		}
	}()
	eventually(t, "the gateway answers", func() bool {
		w.send(arpRequest(gatewayAddr))
		select {
		case <-answered:
			return true
		default:
			return false
		}
	})
}

func TestDialWaitsForAttach(t *testing.T) {
	n := newNet(t, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if _, err := n.DialContext(ctx, netip.AddrPortFrom(guestAddr, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with no guest: %v", err)
	}
	dialled := make(chan error, 1)
	go func() {
		_, err := n.DialContext(context.Background(), netip.AddrPortFrom(guestAddr, 1))
		dialled <- err
	}()
	newWire(t, n)
	n.Close()
	if err := <-dialled; !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closed while dialling: %v", err)
	}
}
