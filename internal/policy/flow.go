package policy

import (
	"net/netip"
	"slices"
)

// Proto is the kind of a flow.
type Proto string

// The kinds of flows.
const (
	ProtoTCP Proto = "tcp"
	ProtoUDP Proto = "udp"
	ProtoDNS Proto = "dns"
)

// Speech is what the first bytes of a TCP connection are.
type Speech string

// What may be spoken. Unheard is a connection whose first bytes have not come.
const (
	Unheard Speech = ""
	TLS     Speech = "tls"
	HTTP    Speech = "http"
	SSH     Speech = "ssh"
	Other   Speech = "other"
)

// Flow is what a guest asks for.
type Flow struct {
	Proto Proto
	// Dst is where a TCP or UDP flow goes.
	Dst netip.AddrPort
	// Known are the names that the stack answered with Dst's address, the last
	// answered first.
	Known []string
	// Speech is what a TCP connection was heard to speak, and Name the host that
	// its bytes are for, if they say one. Name is also what a DNS query asks.
	// It may have capitals and a final dot.
	Speech Speech
	Name   string
	// Type is the type of record that a DNS query asks for.
	Type uint16
}

// Verdict is the answer to a Flow.
type Verdict struct {
	Allow bool
	// Reason is why a refused flow is refused.
	Reason Reason
	// Rule names what decided, as a person would write it.
	Rule string
	// Inspect asks for the flow to be decided again once its first bytes are
	// known, and with every further request that they name a host in.
	Inspect bool
	// Hold is set where the flow is refused unless its bytes name an allowed host:
	// nothing of the other side reaches the guest before that.
	Hold bool
	// WouldRefuse is set on what learning lets through; Reason and Rule are those
	// of the refusal.
	WouldRefuse bool
}

// Reason says why a flow is refused; the counters are kept by it.
type Reason string

// The reasons. Those from ReasonGuestNet to ReasonReserved are kinds of addresses
// that are refused whatever the rules say.
const (
	ReasonNAT       Reason = "nat-off"
	ReasonLimit     Reason = "limit" // too many flows or queries at once
	ReasonRule      Reason = "rule"  // a rule denies it, or none allows it
	ReasonName      Reason = "name"  // no rule allows this name's lookup
	ReasonHostName  Reason = "host"  // the bytes are for another host than the address was answered for
	ReasonQUIC      Reason = "quic"  // a name is allowed, and QUIC hides for which name it is
	ReasonRecord    Reason = "record-type"
	ReasonLongName  Reason = "long-name"
	ReasonServer    Reason = "name-server" // another name server than the stack's
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

// Gate is a policy with what it must know of the host. The zero value lets
// nothing out.
type Gate struct {
	// NAT lets the guest reach the outside at all.
	NAT    bool
	Policy Policy
	// AllowPrivate are the networks that the config takes out of the refused
	// ranges: the rules alone decide about them. GuestNet never is one.
	AllowPrivate []netip.Prefix
	GuestNet     netip.Prefix
	// IsHost reports whether an address, unmapped and without a zone, is the
	// host's own. Nil: none is known to be.
	IsHost func(netip.Addr) bool
}

// Decide decides a flow. It does not block, if IsHost does not.
func (g *Gate) Decide(f Flow) Verdict {
	if !g.NAT {
		return Verdict{Reason: ReasonNAT, Rule: "nat = false"}
	}
	if f.Proto == ProtoDNS {
		v := g.Policy.lookup(f.Name, f.Type)
		if v.Reason == ReasonRecord {
			return v // which no rule could allow: nothing is to be learned from it
		}
		return g.Policy.learned(f, v)
	}
	f.Dst = netip.AddrPortFrom(f.Dst.Addr().Unmap().WithZone(""), f.Dst.Port())
	ruled, by := g.Policy.flow(f)
	if refused, why := g.refused(f.Dst.Addr(), by); refused {
		return why
	}
	return g.Policy.learned(f, ruled)
}

// refused applies the ranges that are refused always, to addr and to an IPv4
// address that an IPv6 one only wraps. by is the rule that allows the flow, nil
// if none does.
func (g *Gate) refused(addr netip.Addr, by *Rule) (bool, Verdict) {
	if !addr.IsValid() {
		return true, Verdict{Reason: ReasonReserved, Rule: "not an address"}
	}
	// The guest's network exists inside only: no rule sends it to the host's.
	if g.GuestNet.Contains(addr) {
		return true, Verdict{Reason: ReasonGuestNet, Rule: g.GuestNet.String()}
	}
	contains := func(p netip.Prefix) bool { return p.Contains(addr) }
	if r, ok := g.forbidden(addr); ok && !by.opens(r.prefix) && !slices.ContainsFunc(g.AllowPrivate, contains) {
		return true, Verdict{Reason: r.reason, Rule: r.prefix.String()}
	}
	for _, inner := range embedded(addr) {
		if refused, why := g.refused(inner, by); refused {
			return true, why
		}
	}
	return false, Verdict{}
}

// forbidden is the narrowest reason against addr: that it is the host's own, or a
// range.
func (g *Gate) forbidden(addr netip.Addr) (addressRange, bool) {
	r, ok := refusedRange(addr)
	if g.IsHost != nil && (!ok || r.reason == ReasonPrivate || r.reason == ReasonCGNAT) && g.IsHost(addr) {
		return addressRange{netip.PrefixFrom(addr, addr.BitLen()), ReasonHost}, true
	}
	return r, ok
}

// opens reports whether a rule lifts the refusal of a range: it was given on the
// command line, and names a part of just that range. So 0.0.0.0/0 opens none, and
// the host's own address only a rule for that address.
func (r *Rule) opens(refused netip.Prefix) bool {
	return r != nil && r.Private && r.Prefix.Bits() >= refused.Bits() && refused.Contains(r.Prefix.Addr())
}

// learned lets through what learning only notes. What a connection is for, it is
// to say first.
func (p *Policy) learned(f Flow, v Verdict) Verdict {
	if !p.Learn {
		return v
	}
	v.Hold = false
	if v.Allow {
		return v
	}
	v.Allow = true
	v.Inspect = f.Proto == ProtoTCP && f.Speech == Unheard
	v.WouldRefuse = !v.Inspect
	return v
}
