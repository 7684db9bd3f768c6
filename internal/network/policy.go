package network

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Decider decides every flow that a guest begins: a TCP connection at its SYN
// and again on the address that is really dialled, a UDP flow at its first
// datagram, a DNS query by its name. It is called on the path of packets, from
// many goroutines, so it must not block and must be safe for that. Flows into
// the guest are not asked about.
type Decider interface {
	Decide(Flow) Verdict
}

// Proto is the kind of a flow.
type Proto string

// The kinds of flows.
const (
	ProtoTCP Proto = "tcp"
	ProtoUDP Proto = "udp"
	ProtoDNS Proto = "dns"
)

// Flow is what a guest asks for.
type Flow struct {
	Proto Proto
	// Dst is where a TCP or UDP flow goes.
	Dst netip.AddrPort
	// Name is what a DNS query asks, in presentation form with the final dot.
	Name string
}

// Verdict is the answer to a Flow.
type Verdict struct {
	Allow bool
	// Reason is why a refused flow is refused.
	Reason Reason
	// Rule names the rule that decided, as a person would write it.
	Rule string
}

// Reason says why a flow is refused; the counters are kept by it.
type Reason string

// The reasons. All but ReasonNAT and ReasonLimit are kinds of addresses that
// are refused whatever the policy says, unless Config.AllowPrivate has them.
const (
	ReasonNAT       Reason = "nat-off"
	ReasonLimit     Reason = "limit" // too many flows or queries at once
	ReasonGuestNet  Reason = "guest-network"
	ReasonHost      Reason = "host-address"
	ReasonLoopback  Reason = "loopback"
	ReasonThisNet   Reason = "this-network" // 0.0.0.0/8 and ::
	ReasonLinkLocal Reason = "link-local"
	ReasonMetadata  Reason = "metadata"
	ReasonPrivate   Reason = "private" // RFC 1918, ULA, site-local
	ReasonCGNAT     Reason = "cgnat"
	ReasonMulticast Reason = "multicast"
	ReasonBroadcast Reason = "broadcast"
	ReasonReserved  Reason = "reserved"
)

// egress is the policy of this network: NAT on or off, and the addresses that
// are refused always.
type egress struct {
	nat    bool
	allow  []netip.Prefix
	isHost func(netip.Addr) bool
}

// Decide implements Decider.
func (e *egress) Decide(flow Flow) Verdict {
	if !e.nat {
		return Verdict{Reason: ReasonNAT, Rule: "nat = false"}
	}
	if flow.Proto == ProtoDNS {
		return Verdict{Allow: true, Rule: "nat = true"}
	}
	return e.address(flow.Dst.Addr())
}

func (e *egress) address(addr netip.Addr) Verdict {
	addr = addr.Unmap().WithZone("")
	// The guest's network exists inside only: no rule sends it to the host's.
	if guestNet.Contains(addr) {
		return Verdict{Reason: ReasonGuestNet, Rule: guestNet.String()}
	}
	refused := e.always(addr)
	if refused.Allow {
		return refused
	}
	if i := slices.IndexFunc(e.allow, func(p netip.Prefix) bool { return p.Contains(addr) }); i >= 0 {
		return Verdict{Allow: true, Rule: "allowed private network " + e.allow[i].String()}
	}
	return refused
}

// always applies the ranges that are refused whatever else is allowed, and the
// same to an IPv4 address that an IPv6 one only wraps.
func (e *egress) always(addr netip.Addr) Verdict {
	if !addr.IsValid() {
		return Verdict{Reason: ReasonReserved, Rule: "not an address"}
	}
	if r, ok := refusedRange(addr); ok {
		return Verdict{Reason: r.reason, Rule: r.prefix.String()}
	}
	if e.isHost(addr) {
		return Verdict{Reason: ReasonHost, Rule: addr.String()}
	}
	for _, inner := range embedded(addr) {
		if v := e.address(inner); !v.Allow {
			return v
		}
	}
	return Verdict{Allow: true, Rule: "nat = true"}
}

// hostAddrsFresh is how long the list of the host's addresses is believed.
const hostAddrsFresh = 2 * time.Second

// hostAddrs knows the host's own addresses.
type hostAddrs struct {
	list func() ([]netip.Addr, error)

	mu    sync.Mutex
	read  time.Time
	known map[netip.Addr]bool // nil: never read
}

func newHostAddrs(list func() []netip.Addr) *hostAddrs {
	if list == nil {
		return &hostAddrs{list: interfaceAddrs}
	}
	return &hostAddrs{list: func() ([]netip.Addr, error) { return list(), nil }}
}

// contains reports whether addr is the host's. While the list was never had
// every address counts as the host's: what is not known is not reachable.
func (h *hostAddrs) contains(addr netip.Addr) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.read) > hostAddrsFresh || h.known == nil {
		if list, err := h.list(); err == nil {
			h.known = make(map[netip.Addr]bool, len(list))
			for _, a := range list {
				h.known[a.Unmap().WithZone("")] = true
			}
			h.read = time.Now()
		}
	}
	return h.known == nil || h.known[addr]
}

func interfaceAddrs() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, a := range addrs {
		if ipnet, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(ipnet.IP); ok {
				list = append(list, addr)
			}
		}
	}
	return list, nil
}
