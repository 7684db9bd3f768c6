package ports

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
)

const (
	// maxListeners bounds the sockets of one guest.
	maxListeners = 256
	// maxAddrs bounds the addresses of one listener.
	maxAddrs = 8
	// maxName and maxCommand bound the guest's texts, in bytes.
	maxName    = 32
	maxCommand = 128
)

// Listener is what listens in the guest: one socket, or several of one process
// with the same port.
type Listener struct {
	Port uint16
	// Addrs are what it listens on, best way first; there is at least one.
	Addrs []netip.Addr
	// PID, Process and Command are the guest's word for who it is; zero: unknown.
	PID              int32
	Process, Command string
}

// Decode takes what a guest says of its listening sockets. What makes no sense is
// left out; more says that there were too many. They come ordered by port; of
// several with the same port the one that is easiest to reach is first.
func Decode(m *agentv1.ListenersResponse) (list []Listener, more bool) {
	more = m.GetMore() || len(m.GetListeners()) > maxListeners
	type owner struct {
		port uint16
		pid  int32
	}
	at := map[owner]int{}
	for _, said := range m.GetListeners()[:min(len(m.GetListeners()), maxListeners)] {
		addr, ok := netip.AddrFromSlice(said.GetAddress())
		if !ok || said.GetPort() < 1 || said.GetPort() > 65535 {
			continue
		}
		who := owner{uint16(said.GetPort()), max(said.GetPid(), 0)}
		i, known := at[who]
		if !known {
			i = len(list)
			at[who] = i
			list = append(list, Listener{
				Port: who.port, PID: who.pid,
				Process: bounded(said.GetProcess(), maxName), Command: bounded(said.GetCommand(), maxCommand),
			})
		}
		if l := &list[i]; len(l.Addrs) < maxAddrs && !slices.Contains(l.Addrs, addr.Unmap()) {
			l.Addrs = append(l.Addrs, addr.Unmap())
		}
	}
	for _, l := range list {
		slices.SortFunc(l.Addrs, byReach)
	}
	slices.SortStableFunc(list, func(a, b Listener) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), byReach(a.Addrs[0], b.Addrs[0]))
	})
	return list, more
}

// bounded is a copy of what is kept of a text: a part of it would hold on to the
// guest's whole message. It stays UTF-8, without which nothing could be sent.
func bounded(s string, limit int) string {
	return strings.ToValidUTF8(strings.Clone(s[:min(len(s), limit)]), "")
}

// byReach orders addresses by how easily they are reached.
func byReach(a, b netip.Addr) int {
	return cmp.Or(cmp.Compare(reach(a), reach(b)), a.Compare(b))
}

func reach(a netip.Addr) int {
	switch {
	case a.IsUnspecified() && a.Is4():
		return 0
	case a.IsUnspecified():
		return 1
	case a == guestAddr():
		return 2
	case a == netip.AddrFrom4([4]byte{127, 0, 0, 1}):
		return 3
	case a == netip.IPv6Loopback():
		return 4
	}
	return 5
}

func guestAddr() netip.Addr { return netip.MustParseAddr(banger.GuestAddress) }

// Target is how a port of the guest is reached.
type Target struct {
	Port uint16
	// Stack says that it listens on the guest's address on its network.
	Stack bool
	// Door is the address to dial inside the guest, where Stack is false or the
	// network was refused; invalid: there is none.
	Door netip.Addr
}

// Target is the way to l. An IPv6 socket on all addresses mostly takes IPv4 too;
// one that does not is found on the guest's loopback.
func (l Listener) Target() Target {
	switch first := l.Addrs[0]; {
	case first.IsUnspecified() && first.Is6():
		return Target{Port: l.Port, Stack: true, Door: netip.IPv6Loopback()}
	case reach(first) <= 2:
		return Target{Port: l.Port, Stack: true}
	default:
		return Target{Port: l.Port, Door: first.WithZone("")}
	}
}
