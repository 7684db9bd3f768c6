package network

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// FuzzFrames gives a running network whatever a guest may send: it must go on
// serving, and let go of everything when it is closed. The first input goes as
// it is; the second is put where an IPv4 packet of the guest's goes, so that it
// comes as far as the stack. The network has NAT, and the namespace of these
// tests no way out.
func FuzzFrames(f *testing.F) {
	syn := synPacket(netip.MustParseAddrPort("1.1.1.1:80"))
	options := ipPacket(guestAddr, gatewayAddr, header.ICMPv4ProtocolNumber, make([]byte, 64))
	options[14] = 0x4f // the payload's first 40 bytes are IP options
	copy(options[34:], []byte{7, 39, 4, 0, 0, 0, 0, 68, 12, 5, 0})
	fragment := ipPacket(guestAddr, gatewayAddr, header.UDPProtocolNumber, make([]byte, 64))
	binary.BigEndian.PutUint16(fragment[20:], 0x2000)
	for _, seed := range [][]byte{
		nil, {0}, {0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 1, 0, 13},
		stream(arpRequest(gatewayAddr), pingPacket(gatewayAddr), pingPacket(netip.MustParseAddr("8.8.8.8"))),
		stream(syn, syn), stream(synPacket(gatewayDNS)), stream(synPacket(netip.MustParseAddrPort("10.0.0.1:1"))),
		stream(udpPacket(gatewayDNS, question("example.org.", 1232)), udpPacket(netip.MustParseAddrPort("1.1.1.1:53"), []byte("x"))),
		stream(options, fragment, fragment),
		stream(etherFrame(header.EthernetBroadcastAddress, header.IPv6ProtocolNumber, make([]byte, 40))),
	} {
		f.Add(seed, seed[min(len(seed), 4+header.EthernetMinimumSize):])
	}
	f.Fuzz(func(t *testing.T, sent, packet []byte) {
		n, err := New(Config{NAT: true, DNSUpstream: "127.0.0.1:9"})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		w := newWire(t, n)
		go func() {
			// What comes back is read, as a guest's card does.
			_, _ = io.Copy(io.Discard, w.conn)
		}()
		frame := guestFrame(packet)
		if _, err := w.conn.Write(append(stream(frame, frame), sent...)); err == nil {
			w.conn.Close()
		}
		<-w.done
		newWire(t, n).answers()
	})
}

// guestFrame makes packet pass for one of the guest's.
func guestFrame(packet []byte) []byte {
	packet = bytes.Clone(packet[:min(len(packet), maxFrame-header.EthernetMinimumSize-1)])
	if len(packet) >= header.IPv4MinimumSize {
		packet[0] = 0x40 | packet[0]&0xf
		binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
		copy(packet[12:], guestAddr.AsSlice())
	}
	return etherFrame(gatewayMAC, header.IPv4ProtocolNumber, packet)
}

// FuzzReadFrames checks the reader alone: what it delivers is what the stream
// holds, in order and within bounds.
func FuzzReadFrames(f *testing.F) {
	f.Add(stream(make([]byte, 14), nil, make([]byte, 60)))
	f.Add([]byte{0, 0, 0, 14, 1})
	f.Fuzz(func(t *testing.T, sent []byte) {
		var rest = sent
		_ = readFrames(bytes.NewReader(sent), func(frame []byte) {
			for { // the frames passed over
				length := int(binary.BigEndian.Uint32(rest))
				if length >= header.EthernetMinimumSize && length <= maxFrame {
					break
				}
				rest = rest[4+length:]
			}
			if !bytes.Equal(rest[4:4+len(frame)], frame) || int(binary.BigEndian.Uint32(rest)) != len(frame) {
				t.Fatalf("delivered %d other bytes", len(frame))
			}
			rest = rest[4+len(frame):]
		}, func() {})
	})
}

// FuzzQuery gives the name server's parsers a guest's query and a server's
// answer.
func FuzzQuery(f *testing.F) {
	f.Add(question("example.org.", 4096), []byte{0, 0})
	f.Add(question("."), (&nameServer{size: 9}).answer(question("."), 0))
	f.Fuzz(func(t *testing.T, message, answer []byte) {
		q, rcode := parseQuery(message)
		if q == nil {
			return
		}
		for _, truncated := range []bool{false, true} {
			reply := q.reply(rcode, truncated)
			if len(reply) > plainLimit {
				t.Errorf("a reply of %d bytes without records", len(reply))
			}
			if q.asked && reply != nil && !q.answeredBy(reply, q.header.ID) {
				t.Errorf("our own reply does not answer %x", message)
			}
		}
		if q.asked && len(answer) > 1 && q.answeredBy(answer, binary.BigEndian.Uint16(answer)) {
			_ = gaveUp(answer)
		}
	})
}

// FuzzResolvConf reads any file as resolv.conf.
func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("nameserver 1.1.1.1\nnameserver fe80::1%lo\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if servers := parseResolvConf(bytes.NewReader(text)); len(servers) > maxServers {
			t.Errorf("%d servers", len(servers))
		}
	})
}
