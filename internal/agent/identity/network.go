package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/uevent"
	"golang.org/x/sys/unix"
)

var errNoCard = errors.New("there is no network card")

const sysNet = "/sys/class/net"

// ApplyNetwork gives the guest its one static address. It waits until ctx ends
// for the network card, whose driver may not be loaded yet, and not at all for
// its carrier.
func ApplyNetwork(ctx context.Context, n *agentv1.Network) error {
	conn, err := openRoute()
	if err != nil {
		return err
	}
	defer conn.close()
	lo, err := linkIndex(sysNet, "lo")
	if err != nil {
		return err
	}
	if err := conn.ask(linkUp(lo, 0)); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	if n.Address == "" {
		return nil
	}
	nic, err := findNIC(sysNet)
	if errors.Is(err, errNoCard) {
		err = uevent.Wait(ctx, func() bool {
			nic, err = findNIC(sysNet)
			return err == nil
		})
		if err != nil {
			err = fmt.Errorf("%w: %w", errNoCard, err)
		}
	}
	if err != nil {
		return err
	}
	return configure(conn, nic, n)
}

// findNIC returns the index of the guest's network card: eth0, unless something
// in the guest has renamed it.
func findNIC(class string) (int, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return 0, err
	}
	var cards []string
	for _, e := range entries {
		// What has a device is real; bridges and tunnels of the guest are not.
		if _, err := os.Stat(filepath.Join(class, e.Name(), "device")); err == nil {
			cards = append(cards, e.Name())
		}
	}
	if len(cards) == 0 {
		return 0, errNoCard
	}
	slices.Sort(cards)
	if slices.Contains(cards, "eth0") {
		return linkIndex(class, "eth0")
	}
	return linkIndex(class, cards[0])
}

func linkIndex(class, name string) (int, error) {
	text, err := os.ReadFile(filepath.Join(class, name, "ifindex"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func configure(conn *routeConn, nic int, n *agentv1.Network) error {
	address, err := netip.ParsePrefix(n.Address)
	if err != nil || !address.Addr().Is4() {
		return fmt.Errorf("%q is no IPv4 address with its prefix", n.Address)
	}
	if err := conn.ask(linkUp(nic, uint32(max(n.Mtu, 0)))); err != nil {
		return fmt.Errorf("link up with mtu %d: %w", n.Mtu, err)
	}
	if err := conn.ask(newAddress(nic, address)); err != nil {
		return fmt.Errorf("address %s: %w", address, err)
	}
	if n.Gateway == "" {
		return nil
	}
	gateway, err := netip.ParseAddr(n.Gateway)
	if err != nil || !gateway.Is4() {
		return fmt.Errorf("gateway %q is no IPv4 address", n.Gateway)
	}
	if err := conn.ask(defaultRoute(nic, gateway)); err != nil {
		return fmt.Errorf("gateway %s: %w", gateway, err)
	}
	return nil
}

// linkUp sets a link up, with this MTU unless it is 0.
func linkUp(index int, mtu uint32) request {
	// struct ifinfomsg: family 1, pad 1, type 2, index 4, flags 4, change 4.
	r := newRequest(unix.RTM_NEWLINK, 0)
	r = r.bytes(0, 0, 0, 0).u32(uint32(index)).u32(unix.IFF_UP).u32(unix.IFF_UP)
	if mtu > 0 {
		r = r.attr(unix.IFLA_MTU, request(nil).u32(mtu))
	}
	return r
}

// newAddress adds an address to a link; one that is there is no error.
func newAddress(index int, p netip.Prefix) request {
	ip := p.Addr().AsSlice()
	// struct ifaddrmsg: family 1, prefix length 1, flags 1, scope 1, index 4.
	r := newRequest(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	return r.bytes(unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE).u32(uint32(index)).
		attr(unix.IFA_LOCAL, ip).attr(unix.IFA_ADDRESS, ip)
}

// defaultRoute makes gateway the way to everywhere.
func defaultRoute(index int, gateway netip.Addr) request {
	// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type
	// of 1 each, flags 4.
	r := newRequest(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	return r.bytes(unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST).u32(0).
		attr(unix.RTA_GATEWAY, gateway.AsSlice()).attr(unix.RTA_OIF, request(nil).u32(uint32(index)))
}
