package network

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// receive takes one frame from the guest, at least an Ethernet header long.
// What passes is IPv4 from the guest's own address to one host; ARP is
// answered here.
func (l *link) receive(frame []byte) {
	l.counters.packetsFrom.Add(1)
	l.counters.bytesFrom.Add(uint64(len(frame)))
	eth := header.Ethernet(frame)
	dst := eth.DestinationAddress()
	if dst != gatewayMAC && !header.IsMulticastEthernetAddress(dst) && dst != header.EthernetBroadcastAddress {
		l.counters.ignored.Add(1)
		return
	}
	payload := frame[header.EthernetMinimumSize:]
	switch eth.Type() {
	case header.ARPProtocolNumber:
		l.receiveARP(header.ARP(payload))
	case header.IPv4ProtocolNumber:
		l.receiveIPv4(header.IPv4(payload))
	default:
		l.counters.ignored.Add(1)
	}
}

// receiveARP answers with the gateway for every address of the guest's network,
// so that flows to stations that do not exist are refused at once. The guest's
// own address it leaves alone: that is how a guest looks for a second owner.
func (l *link) receiveARP(arp header.ARP) {
	if !arp.IsValid() {
		l.counters.malformed.Add(1)
		return
	}
	target := netip.AddrFrom4([4]byte(arp.ProtocolAddressTarget()))
	if arp.Op() != header.ARPRequest || target == guestAddr || !guestNet.Contains(target) {
		l.counters.ignored.Add(1)
		return
	}
	view := buffer.NewViewSize(header.EthernetMinimumSize + header.ARPSize)
	frame := view.AsSlice()
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC, DstAddr: guestMAC, Type: header.ARPProtocolNumber,
	})
	reply := header.ARP(frame[header.EthernetMinimumSize:])
	reply.SetIPv4OverEthernet()
	reply.SetOp(header.ARPReply)
	copy(reply.HardwareAddressSender(), gatewayMAC)
	copy(reply.ProtocolAddressSender(), arp.ProtocolAddressTarget())
	copy(reply.HardwareAddressTarget(), arp.HardwareAddressSender())
	copy(reply.ProtocolAddressTarget(), arp.ProtocolAddressSender())
	l.sendFrame(view)
}

// receiveIPv4 passes a packet to the stack.
func (l *link) receiveIPv4(ip header.IPv4) {
	if len(ip) < header.IPv4MinimumSize || !ip.IsValid(len(ip)) {
		l.counters.malformed.Add(1)
		return
	}
	src, dst := netip.AddrFrom4(ip.SourceAddress().As4()), netip.AddrFrom4(ip.DestinationAddress().As4())
	if src != guestAddr || dst.IsMulticast() || isBroadcast(dst) {
		l.counters.ignored.Add(1)
		return
	}
	if ip.TransportProtocol() == header.ICMPv4ProtocolNumber && dst != gatewayAddr {
		// Nothing but the gateway answers an echo: to ask a host outside takes
		// a raw socket. The guest hears at once that it is filtered.
		if isEcho(ip) {
			l.sendUnreachable(ip, header.ICMPv4AdminProhibited)
		}
		l.counters.ignored.Add(1)
		return
	}
	up := l.upward()
	if up == nil {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(ip)})
	defer pkt.DecRef()
	up.DeliverNetworkPacket(header.IPv4ProtocolNumber, pkt)
}

func isBroadcast(addr netip.Addr) bool {
	if !guestNet.Contains(addr) {
		return addr == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	return addr.As4()[3] == 255 || addr == guestNet.Addr()
}

// isEcho reports whether an ICMP packet is the (first fragment of an) echo
// request: no error is ever sent about an error.
func isEcho(ip header.IPv4) bool {
	payload := ip[ip.HeaderLength():]
	return ip.FragmentOffset() == 0 && len(payload) >= header.ICMPv4MinimumSize &&
		header.ICMPv4(payload).Type() == header.ICMPv4Echo
}

// sendFrame queues a frame that was made here.
func (l *link) sendFrame(frame *buffer.View) {
	l.send(stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(frame)}))
}

// newIPv4 makes a frame for the guest with n bytes after the IPv4 header, and
// returns it with these bytes. The frame must not be larger than maxFrame.
func newIPv4(src netip.Addr, proto tcpip.TransportProtocolNumber, n int) (frame *buffer.View, payload []byte) {
	frame = buffer.NewViewSize(header.EthernetMinimumSize + header.IPv4MinimumSize + n)
	b := frame.AsSlice()
	header.Ethernet(b).Encode(&header.EthernetFields{
		SrcAddr: gatewayMAC, DstAddr: guestMAC, Type: header.IPv4ProtocolNumber,
	})
	ip := header.IPv4(b[header.EthernetMinimumSize:])
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(header.IPv4MinimumSize + n),
		Flags:       header.IPv4FlagDontFragment,
		TTL:         64,
		Protocol:    uint8(proto),
		SrcAddr:     tcpip.AddrFrom4(src.As4()),
		DstAddr:     tcpip.AddrFrom4(guestAddr.As4()),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	return frame, ip[header.IPv4MinimumSize:]
}

// sendUnreachable tells the guest that a packet of its, of which original has
// at least the header, went nowhere.
func (l *link) sendUnreachable(original header.IPv4, code header.ICMPv4Code) {
	quoted := original[:min(len(original), int(original.HeaderLength())+8)]
	frame, payload := newIPv4(gatewayAddr, header.ICMPv4ProtocolNumber, header.ICMPv4MinimumSize+len(quoted))
	clear(payload[:header.ICMPv4MinimumSize])
	copy(payload[header.ICMPv4MinimumSize:], quoted)
	icmp := header.ICMPv4(payload)
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(code)
	icmp.SetChecksum(^checksum.Checksum(payload, 0))
	l.sendFrame(frame)
}
