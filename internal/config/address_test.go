package config

import (
	"net/netip"
	"testing"
)

func TestAddresses(t *testing.T) {
	whole, reserved := netip.MustParsePrefix("127.77.0.0/16"), netip.MustParsePrefix("127.77.0.0/22")
	seen := map[netip.Prefix]int{}
	for _, uid := range []int{0, 1000, 1001, 1062, 65534} {
		got := Network{}.Addresses(uid)
		if !whole.Overlaps(got) || got.Bits() != 22 || got.Overlaps(reserved) || seen[got] != 0 {
			t.Errorf("uid %d: %s, like that of %d", uid, got, seen[got])
		}
		seen[got] = uid
	}
	if got := (Network{AddressRange: "127.9.8.7/24"}).Addresses(0); got != netip.MustParsePrefix("127.9.8.0/24") {
		t.Error(got)
	}
}

func TestDNSAddress(t *testing.T) {
	for want, got := range map[string]netip.AddrPort{
		"127.77.0.53:53":     Network{}.DNS(0),
		"127.77.4.53:9000":   Network{DNSPort: 9000}.DNS(0),
		"127.77.224.53:5377": Network{}.DNS(1000),
		"127.9.8.53:5377":    Network{AddressRange: "127.9.8.0/24"}.DNS(1000),
	} {
		if got.String() != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
