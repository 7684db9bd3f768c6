package config

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

const (
	// shareBits is the size of a user's share of the loopback addresses: 1,024.
	shareBits = 22
	// DNSHost is the last number of an address at which the names of VMs are
	// answered; no VM has one that ends so.
	DNSHost = 53
	// BuiltinDNSPort is where that is for who may not use port 53.
	BuiltinDNSPort = 5377
	// plainDNSPort is the one that /etc/resolv.conf can name.
	plainDNSPort = 53
)

// Addresses is the range that the VMs of a user get their loopback addresses from:
// as the config says, else a share of 127.77.0.0/16 by uid. Its lowest 1,024 are
// nobody's. c has passed Load.
func (n Network) Addresses(uid int) netip.Prefix {
	if prefix, err := netip.ParsePrefix(n.AddressRange); n.AddressRange != "" && err == nil {
		return prefix.Masked()
	}
	shares := 1<<(shareBits-16) - 1
	base := [4]byte{127, 77}
	binary.BigEndian.PutUint16(base[2:], uint16((1+uid%shares)<<(32-shareBits)))
	return netip.PrefixFrom(netip.AddrFrom4(base), shareBits)
}

// DNS is where the names of a user's VMs are answered: for root 127.77.0.53:53,
// which /etc/resolv.conf can name, else a high port of an address in the user's
// range. n has passed Load.
func (n Network) DNS(uid int) netip.AddrPort {
	if uid == 0 && n.DNSPort == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 77, 0, DNSHost}), plainDNSPort)
	}
	port := uint16(n.DNSPort)
	if port == 0 {
		port = BuiltinDNSPort
	}
	return netip.AddrPortFrom(HostOf(n.Addresses(uid), DNSHost), port)
}

// HostOf is the address in an IPv4 range whose last bits are those of host.
func HostOf(prefix netip.Prefix, host int) netip.Addr {
	base := prefix.Masked().Addr().As4()
	mask := uint32(1)<<(32-prefix.Bits()) - 1
	binary.BigEndian.PutUint32(base[:], binary.BigEndian.Uint32(base[:])|uint32(host)&mask)
	return netip.AddrFrom4(base)
}

// checkAddresses checks the keys of a user's addresses.
func (n Network) checkAddresses() error {
	if n.DNSPort < 0 || n.DNSPort > 65535 {
		return fmt.Errorf("network.dns_port = %d is not between 1 and 65535", n.DNSPort)
	}
	if n.AddressRange == "" {
		return nil
	}
	prefix, err := netip.ParsePrefix(n.AddressRange)
	if err != nil || !prefix.Addr().Is4() || !prefix.Addr().IsLoopback() || prefix.Bits() < 8 || prefix.Bits() > 24 {
		return fmt.Errorf("network.address_range = %q is not a network in 127.0.0.0/8 with at least 256 addresses", n.AddressRange)
	}
	return nil
}
