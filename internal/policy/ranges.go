package policy

import "net/netip"

type addressRange struct {
	prefix netip.Prefix
	reason Reason
}

// alwaysRefused holds the ranges that lead to the host, its neighbours or
// nowhere; the first that matches names the reason. Documentation ranges
// (TEST-NET) are left out on purpose: some hosts reach package mirrors there.
//
// The single metadata addresses are those of clouds whose service does not lie
// in 169.254.0.0/16: fd00:ec2::254 (EC2), 100.100.100.200 (Alibaba),
// 168.63.129.16 (Azure's WireServer), 192.0.0.192 (Oracle).
var alwaysRefused = []addressRange{
	{netip.MustParsePrefix("169.254.169.254/32"), ReasonMetadata},
	{netip.MustParsePrefix("fd00:ec2::254/128"), ReasonMetadata},
	{netip.MustParsePrefix("100.100.100.200/32"), ReasonMetadata},
	{netip.MustParsePrefix("168.63.129.16/32"), ReasonMetadata},
	{netip.MustParsePrefix("192.0.0.192/32"), ReasonMetadata},

	{netip.MustParsePrefix("0.0.0.0/8"), ReasonThisNet},
	{netip.MustParsePrefix("127.0.0.0/8"), ReasonLoopback},
	{netip.MustParsePrefix("169.254.0.0/16"), ReasonLinkLocal},
	{netip.MustParsePrefix("10.0.0.0/8"), ReasonPrivate},
	{netip.MustParsePrefix("172.16.0.0/12"), ReasonPrivate},
	{netip.MustParsePrefix("192.168.0.0/16"), ReasonPrivate},
	{netip.MustParsePrefix("100.64.0.0/10"), ReasonCGNAT},
	{netip.MustParsePrefix("224.0.0.0/4"), ReasonMulticast},
	{netip.MustParsePrefix("255.255.255.255/32"), ReasonBroadcast},
	{netip.MustParsePrefix("240.0.0.0/4"), ReasonReserved},

	{netip.MustParsePrefix("::/128"), ReasonThisNet},
	{netip.MustParsePrefix("::1/128"), ReasonLoopback},
	{netip.MustParsePrefix("fe80::/10"), ReasonLinkLocal},
	{netip.MustParsePrefix("fec0::/10"), ReasonPrivate},
	{netip.MustParsePrefix("fc00::/7"), ReasonPrivate},
	{netip.MustParsePrefix("ff00::/8"), ReasonMulticast},
	// NAT64 prefixes for local use (RFC 8215): what they lead to is the local
	// network's choice.
	{netip.MustParsePrefix("64:ff9b:1::/48"), ReasonPrivate},
}

func refusedRange(addr netip.Addr) (addressRange, bool) {
	for _, r := range alwaysRefused {
		if r.prefix.Contains(addr) {
			return r, true
		}
	}
	return addressRange{}, false
}

// IPv6 ranges that carry an IPv4 address inside.
var (
	v4Compatible = netip.MustParsePrefix("::/96")           // RFC 4291 §2.5.5.1
	v4Translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765 §2.1
	nat64        = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052 §2.1
	sixToFour    = netip.MustParsePrefix("2002::/16")       // RFC 3056 §2
	teredo       = netip.MustParsePrefix("2001::/32")       // RFC 4380 §4
)

// embedded returns the IPv4 addresses that an IPv6 address leads to.
// IPv4-mapped ones are not among them: callers unmap first.
func embedded(addr netip.Addr) []netip.Addr {
	if !addr.Is6() {
		return nil
	}
	b := addr.As16()
	v4 := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(b[at : at+4])) }
	switch {
	case v4Compatible.Contains(addr), v4Translated.Contains(addr), nat64.Contains(addr):
		return []netip.Addr{v4(12)}
	case sixToFour.Contains(addr):
		return []netip.Addr{v4(2)}
	case teredo.Contains(addr):
		for i := 12; i < 16; i++ { // the client's address is written inverted
			b[i] = ^b[i]
		}
		return []netip.Addr{v4(4), v4(12)}
	}
	return nil
}
