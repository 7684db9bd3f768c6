package network

import (
	"net/netip"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip"
)

// The guest's network as values. They are constants in all but Go's grammar.
var (
	guestAddr   = netip.MustParseAddr(banger.GuestAddress)
	gatewayAddr = netip.MustParseAddr(banger.GuestGateway)
	guestNet    = netip.PrefixFrom(gatewayAddr, banger.GuestPrefix).Masked()
	guestMAC    = mustMAC(banger.GuestMAC)
	gatewayMAC  = mustMAC(banger.GatewayMAC)
)

func mustMAC(text string) tcpip.LinkAddress {
	addr, err := tcpip.ParseMACAddress(text)
	if err != nil {
		panic(err)
	}
	return addr
}

func guestSubnet() tcpip.Subnet {
	return tcpip.AddressWithPrefix{
		Address: tcpip.AddrFrom4(guestNet.Addr().As4()), PrefixLen: guestNet.Bits(),
	}.Subnet()
}

// netipAddr turns the stack's IPv4 address into Go's. An address of another
// length is the zero Addr, which every rule refuses.
func netipAddr(addr tcpip.Address) netip.Addr {
	if addr.Len() != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4(addr.As4())
}
