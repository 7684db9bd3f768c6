package network

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banger-dev/banger/internal/policy"
)

// Decider decides every flow that a guest begins: a TCP connection at its SYN,
// again on the address that is really dialled, and again where the verdict says so
// once its bytes are known; a UDP flow at its first datagram; a DNS query by its
// name. It is called on the path of packets, from many goroutines, so it must not
// block and must be safe for that. Flows into the guest are not asked about.
type Decider interface {
	Decide(policy.Flow) policy.Verdict
	// PlainLookups reports whether DNS queries and answers are brought to a plain
	// form.
	PlainLookups() bool
}

// ruling is the policy in force, which can be replaced.
type ruling struct {
	gate atomic.Pointer[policy.Gate]
}

// Decide implements Decider.
func (r *ruling) Decide(f policy.Flow) policy.Verdict { return r.gate.Load().Decide(f) }

// PlainLookups implements Decider.
func (r *ruling) PlainLookups() bool { return r.gate.Load().PlainLookups() }

// newRuling is the policy of a config. A Policy that is nil allows all that is not
// refused always.
func newRuling(cfg Config) *ruling {
	gate := &policy.Gate{
		NAT: cfg.NAT, Policy: policy.Open(), AllowPrivate: cfg.AllowPrivate, GuestNet: guestNet,
		IsHost: newHostAddrs(cfg.HostAddrs).contains,
	}
	if cfg.Policy != nil {
		gate.Policy = *cfg.Policy
	}
	r := new(ruling)
	r.gate.Store(gate)
	return r
}

// SetPolicy replaces the policy. Flows that it forbids have ended when SetPolicy
// returns: connections with a reset. One whose bytes would have to be heard from
// the start ends, too, unless its policy had it heard.
func (n *Network) SetPolicy(nat bool, p policy.Policy) {
	n.changing.Lock()
	defer n.changing.Unlock()
	next := *n.rules.gate.Load()
	next.NAT, next.Policy = nat, p
	n.rules.gate.Store(&next)
	n.live.review()
	n.datagram.review()
}

// flow is what the guest asks for, with the names that lead to its address.
func (n *Network) flow(proto policy.Proto, dst netip.AddrPort) policy.Flow {
	n.answered.Lock()
	defer n.answered.Unlock()
	return policy.Flow{Proto: proto, Dst: dst, Known: n.answers.Known(dst.Addr(), time.Now())}
}

// decide asks the policy about a new flow, counts the answer and notes a refusal.
func (n *Network) decide(flow policy.Flow) policy.Verdict {
	verdict := n.policy.Decide(flow)
	if verdict.Allow {
		n.counters.accepted.Add(1)
	}
	n.note(flow, verdict)
	return verdict
}

// note counts and records a refusal, also one that learning only notes.
func (n *Network) note(flow policy.Flow, verdict policy.Verdict) {
	switch {
	case !verdict.Allow:
		n.counters.refuse(verdict.Reason)
	case verdict.WouldRefuse:
		n.counters.wouldRefuse.Add(1)
	default:
		return
	}
	if n.record != nil {
		n.record(flow, verdict)
	}
	n.log.Debug("flow refused", "proto", flow.Proto, "to", flow.Dst, "name", flow.Name,
		"reason", verdict.Reason, "rule", verdict.Rule, "let through", verdict.WouldRefuse)
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
