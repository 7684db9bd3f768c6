package identity

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// applyNetwork gives the guest its one static address. It does not wait for
// the link's carrier.
func applyNetwork(n *agentv1.Network) error {
	if err := loopbackUp(); err != nil {
		return err
	}
	if n.Address == "" {
		return nil
	}
	nic, err := findNIC("/sys/class/net")
	if err != nil {
		return err
	}
	return configure(nic, n)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// findNIC returns the guest's network card: eth0, unless something in the
// guest has renamed it.
func findNIC(class string) (netlink.Link, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	var cards []string
	for _, e := range entries {
		// What has a device is real; bridges and tunnels of the guest are not.
		if _, err := os.Stat(filepath.Join(class, e.Name(), "device")); err == nil {
			cards = append(cards, e.Name())
		}
	}
	if len(cards) == 0 {
		return nil, errors.New("there is no network card")
	}
	slices.Sort(cards)
	if slices.Contains(cards, "eth0") {
		return netlink.LinkByName("eth0")
	}
	return netlink.LinkByName(cards[0])
}

func configure(nic netlink.Link, n *agentv1.Network) error {
	addr, err := netlink.ParseAddr(n.Address)
	if err != nil {
		return fmt.Errorf("address %q: %w", n.Address, err)
	}
	if n.Mtu > 0 && nic.Attrs().MTU != int(n.Mtu) {
		if err := netlink.LinkSetMTU(nic, int(n.Mtu)); err != nil {
			return fmt.Errorf("mtu %d: %w", n.Mtu, err)
		}
	}
	if err := netlink.AddrReplace(nic, addr); err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	if err := netlink.LinkSetUp(nic); err != nil {
		return fmt.Errorf("%s up: %w", nic.Attrs().Name, err)
	}
	return defaultRoute(nic, n.Gateway)
}

func defaultRoute(nic netlink.Link, gateway string) error {
	if gateway == "" {
		return nil
	}
	ip := net.ParseIP(gateway)
	if ip == nil {
		return fmt.Errorf("gateway %q is no address", gateway)
	}
	all := &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	route := &netlink.Route{LinkIndex: nic.Attrs().Index, Dst: all, Gw: ip, Protocol: unix.RTPROT_STATIC}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("gateway %s: %w", gateway, err)
	}
	return nil
}
