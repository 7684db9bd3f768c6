// Package suggest makes the shortest policy that would have let through what the
// log of a policy holds.
package suggest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/banger-dev/banger/internal/policy"
)

const (
	// manyBelow is how many names of one domain become all names below it.
	manyBelow = 3
	// maxTargets bounds what is remembered of a log: a guest wrote it.
	maxTargets = 4096
)

// Learner takes the entries of a log, in any order.
type Learner struct {
	// names are the ends of the rules for each name: "" for what goes without
	// saying, ":22", ":5432/tcp". A name that was only looked up has none.
	names map[string]map[string]bool
	// addresses are targets by address, and private those that only the command
	// line can allow.
	addresses, private map[string]bool
	lines              int64
}

// New returns a Learner that has learned nothing.
func New() *Learner {
	return &Learner{names: map[string]map[string]bool{}, addresses: map[string]bool{}, private: map[string]bool{}}
}

// Lines is how many entries were of use.
func (l *Learner) Lines() int64 { return l.lines }

// Add learns from an entry.
func (l *Learner) Add(e policy.Entry) {
	if len(l.names)+len(l.addresses)+len(l.private) >= maxTargets {
		return
	}
	switch {
	case e.Verdict == policy.VerdictRefused && opened(e.Reason):
		l.private[target(e)] = true
	case e.Verdict != policy.VerdictLearned:
		return
	case e.Proto == policy.ProtoDNS:
		l.name(e.Name)
	case !e.Answered:
		l.addresses[target(e)] = true
	default:
		if ends := l.name(e.Name); ends != nil {
			ends[end(e)] = true
		}
	}
	l.lines++
}

// opened reports whether a rule of the command line lifts a refusal.
func opened(r policy.Reason) bool {
	switch r {
	case policy.ReasonPrivate, policy.ReasonCGNAT, policy.ReasonHost, policy.ReasonLoopback, policy.ReasonLinkLocal, policy.ReasonMetadata:
		return true
	}
	return false
}

// name is the entry of a name; nil for what is none that a rule could have.
func (l *Learner) name(name string) map[string]bool {
	if rule, err := policy.ParseTarget(name); err != nil || rule.Name != name {
		return nil
	}
	if l.names[name] == nil {
		l.names[name] = map[string]bool{}
	}
	return l.names[name]
}

// end is what stands behind a name in the rule that lets the entry's flow through.
func end(e policy.Entry) string {
	usual := e.Port == 80 || e.Port == 443
	switch {
	case e.Proto == policy.ProtoUDP && e.Port == 443:
		return "" // QUIC, in whose place TCP does
	case e.Proto == policy.ProtoUDP:
		return fmt.Sprintf(":%d/udp", e.Port)
	case e.Speech == policy.Other || e.Speech == policy.SSH && usual:
		return fmt.Sprintf(":%d/tcp", e.Port)
	case usual:
		return ""
	}
	return fmt.Sprintf(":%d", e.Port)
}

// target is the rule's target for an address.
func target(e policy.Entry) string {
	if !e.Address.IsValid() {
		return ""
	}
	text := netip.AddrPortFrom(e.Address, e.Port).String()
	if e.Proto == policy.ProtoUDP {
		text += "/udp"
	}
	return text
}

// Policy returns known, the policy that was learned under, with the rules that it
// lacks, and the targets that only the command line can allow. Rules of the command
// line are among those.
func (l *Learner) Policy(known policy.Policy) (p policy.Policy, private []string, err error) {
	var texts []string
	wanted := maps.Clone(l.private)
	for _, rule := range known.Rules {
		if rule.Private {
			wanted[rule.Target()] = true
			continue
		}
		texts = append(texts, rule.String())
	}
	for _, one := range slices.Sorted(maps.Keys(l.targets())) {
		texts = append(texts, "allow "+one)
	}
	delete(wanted, "")
	p, err = policy.Parse(known.Default(), texts, false)
	return p, slices.Sorted(maps.Keys(wanted)), err
}

// targets are those of the rules, as few as will do.
func (l *Learner) targets() map[string]bool {
	all := maps.Clone(l.addresses)
	delete(all, "")
	for at, names := range l.byEnd() {
		below := map[string][]string{}
		for _, name := range names {
			if _, domain, ok := strings.Cut(name, "."); ok && owned(domain) {
				below[domain] = append(below[domain], name)
			}
		}
		for domain, list := range below {
			if len(list) >= manyBelow {
				all["*."+domain+at] = true
				names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(list, name) })
			}
		}
		for _, name := range names {
			all[name+at] = true
		}
	}
	return all
}

// byEnd are the names by what their rules end in. One that was only looked up needs
// a rule, too, and any will do.
func (l *Learner) byEnd() map[string][]string {
	ends := map[string][]string{}
	for name, wanted := range l.names {
		if len(wanted) == 0 {
			ends[""] = append(ends[""], name)
		}
		for at := range wanted {
			ends[at] = append(ends[at], name)
		}
	}
	return ends
}

// owned reports whether a domain is somebody's, and not one like co.uk under which
// anybody has a name.
func owned(domain string) bool {
	_, err := publicsuffix.EffectiveTLDPlusOne(domain)
	return err == nil
}
