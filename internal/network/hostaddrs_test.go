package network

import (
	"errors"
	"net/netip"
	"testing"
)

func TestHostAddrs(t *testing.T) {
	own := newHostAddrs(nil)
	if !own.contains(netip.MustParseAddr("127.0.0.1")) {
		t.Error("the loopback interface's address is not the host's")
	}
	if own.contains(netip.MustParseAddr("1.1.1.1")) {
		t.Error("an address of no interface is the host's")
	}
	calls := 0
	given := newHostAddrs(func() []netip.Addr {
		calls++
		return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1"), netip.MustParseAddr("fe80::2%lo")}
	})
	for _, addr := range []string{"192.0.2.1", "fe80::2"} {
		if !given.contains(netip.MustParseAddr(addr)) {
			t.Errorf("%s is not the host's", addr)
		}
	}
	if calls != 1 {
		t.Errorf("the list was read %d times", calls)
	}
	unknown := &hostAddrs{list: func() ([]netip.Addr, error) { return nil, errors.New("no netlink") }}
	if !unknown.contains(netip.MustParseAddr("1.1.1.1")) {
		t.Error("while the host's addresses are unknown, one was let through")
	}
}
