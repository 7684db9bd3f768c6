package policy

import (
	"net/netip"
	"testing"
)

// testHost is an address that the policies of these tests take for the host's.
var testHost = netip.MustParseAddr("203.0.113.9")

// open is a gate without rules.
func open(allow []netip.Prefix) *Gate {
	return &Gate{
		NAT: true, Policy: Open(), AllowPrivate: allow, GuestNet: netip.MustParsePrefix("192.168.127.0/24"),
		IsHost: func(a netip.Addr) bool { return a == testHost },
	}
}

func TestAlwaysRefused(t *testing.T) {
	policy := open(nil)
	for addr, want := range map[string]Reason{
		"0.0.0.0": ReasonThisNet, "0.1.2.3": ReasonThisNet, "0.255.255.255": ReasonThisNet,
		"127.0.0.1": ReasonLoopback, "127.255.255.254": ReasonLoopback,
		"169.254.0.1": ReasonLinkLocal, "169.254.255.255": ReasonLinkLocal,
		"169.254.169.254": ReasonMetadata, "100.100.100.200": ReasonMetadata,
		"168.63.129.16": ReasonMetadata, "192.0.0.192": ReasonMetadata, "fd00:ec2::254": ReasonMetadata,
		"10.0.0.0": ReasonPrivate, "10.255.255.255": ReasonPrivate,
		"172.16.0.1": ReasonPrivate, "172.31.255.255": ReasonPrivate,
		"192.168.0.1": ReasonPrivate, "192.168.255.255": ReasonPrivate,
		"192.168.127.1": ReasonGuestNet, "192.168.127.2": ReasonGuestNet, "192.168.127.255": ReasonGuestNet,
		"100.64.0.1": ReasonCGNAT, "100.127.255.255": ReasonCGNAT,
		"224.0.0.1": ReasonMulticast, "239.255.255.255": ReasonMulticast,
		"240.0.0.1": ReasonReserved, "255.255.255.254": ReasonReserved, "255.255.255.255": ReasonBroadcast,
		"203.0.113.9": ReasonHost,
		"::":          ReasonThisNet, "::1": ReasonLoopback,
		"fe80::1": ReasonLinkLocal, "fe80::1%eth0": ReasonLinkLocal, "febf::1": ReasonLinkLocal,
		"fec0::1": ReasonPrivate, "fc00::1": ReasonPrivate, "fdff::1": ReasonPrivate,
		"ff02::1": ReasonMulticast, "64:ff9b:1::1": ReasonPrivate,
		// IPv4 inside IPv6: mapped, compatible, translated, NAT64, 6to4, Teredo
		// (server, then client, whose bits are inverted).
		"::ffff:127.0.0.1": ReasonLoopback, "::ffff:10.0.0.1": ReasonPrivate,
		"::ffff:169.254.169.254": ReasonMetadata, "::ffff:203.0.113.9": ReasonHost,
		"::ffff:192.168.127.2": ReasonGuestNet,
		"::127.0.0.1":          ReasonLoopback, "::ffff:0:10.0.0.1": ReasonPrivate,
		"64:ff9b::7f00:1": ReasonLoopback, "64:ff9b::cb00:7109": ReasonHost, "64:ff9b::c0a8:7f02": ReasonGuestNet,
		"2002:7f00:1::": ReasonLoopback, "2002:a9fe:a9fe::1": ReasonMetadata,
		"2001:0:a00:1::": ReasonPrivate, "2001:0:808:808::80ff:fffe": ReasonLoopback,
	} {
		dst := netip.AddrPortFrom(netip.MustParseAddr(addr), 80)
		for _, proto := range []Proto{ProtoTCP, ProtoUDP} {
			if v := policy.Decide(Flow{Proto: proto, Dst: dst}); v.Allow || v.Reason != want || v.Rule == "" {
				t.Errorf("%s %s: %+v, want refused as %s", proto, addr, v, want)
			}
		}
	}
	if v := policy.Decide(Flow{Proto: ProtoTCP}); v.Allow {
		t.Error("no address at all is let through")
	}
}

func TestLetThrough(t *testing.T) {
	policy := open(nil)
	for _, addr := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0",
		"100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0",
		"223.255.255.255", "168.63.129.17",
		"192.0.2.1", "198.51.100.1", "203.0.113.1", // TEST-NET 1 to 3
		"2606:4700::1111", "2001:db8::1", "64:ff9b::101:101", "2002:101:101::1", "::ffff:1.1.1.1",
	} {
		if v := policy.Decide(Flow{Proto: ProtoTCP, Dst: netip.AddrPortFrom(netip.MustParseAddr(addr), 443)}); !v.Allow {
			t.Errorf("%s is refused: %+v", addr, v)
		}
	}
	if v := policy.Decide(Flow{Proto: ProtoDNS, Name: "example.org."}); !v.Allow {
		t.Errorf("a name is refused: %+v", v)
	}
}

func TestAllowPrivate(t *testing.T) {
	policy := open([]netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("127.0.0.1/32"),
		netip.MustParsePrefix("203.0.113.9/32"), netip.MustParsePrefix("fd12::/16"),
		netip.MustParsePrefix("192.168.0.0/16"),
	})
	for addr, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": true, "127.0.0.2": false, "203.0.113.9": true,
		"fd12::1": true, "fd13::1": false, "::ffff:10.1.2.3": true, "64:ff9b::a01:203": true, "64:ff9b::a02:1": false,
		"192.168.1.1": true, "192.168.127.1": false, "169.254.169.254": false, "8.8.8.8": true,
	} {
		v := policy.Decide(Flow{Proto: ProtoTCP, Dst: netip.AddrPortFrom(netip.MustParseAddr(addr), 443)})
		if v.Allow != want {
			t.Errorf("%s: %+v, want allow = %v", addr, v, want)
		}
	}
}

func TestNATOffDecidesAll(t *testing.T) {
	policy := &Gate{Policy: Open(), AllowPrivate: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}
	for _, flow := range []Flow{
		{Proto: ProtoTCP, Dst: netip.MustParseAddrPort("1.1.1.1:443")},
		{Proto: ProtoUDP, Dst: netip.MustParseAddrPort("1.1.1.1:53")},
		{Proto: ProtoDNS, Name: "example.org."},
	} {
		if v := policy.Decide(flow); v.Allow || v.Reason != ReasonNAT {
			t.Errorf("%+v: %+v", flow, v)
		}
	}
}
