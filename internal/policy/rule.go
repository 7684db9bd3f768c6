package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
)

// maxRule bounds the text of a rule, in bytes.
const maxRule = 320

// Rule allows or denies one target. Exactly one of Name and Prefix is set.
type Rule struct {
	Allow bool
	// Private is set on a rule that was given on the command line by address: it
	// alone opens a range that is refused otherwise.
	Private bool
	// Name is a host's name in lower case, or *. and a domain: all names below it.
	Name string
	// Prefix is an address (a network of one) or a network, masked.
	Prefix netip.Prefix
	// First and Last are the ports. Both 0: those that go without saying, 80 and
	// 443 where a name is allowed, else all.
	First, Last uint16
	// Proto is ProtoTCP, ProtoUDP, or empty. Empty is both for an address, and for
	// a name TCP whose bytes say what they are for.
	Proto Proto
}

// The words that a rule begins with.
const (
	wordAllow   = "allow"
	wordPrivate = "allow-private"
	wordDeny    = "deny"
)

// ParseRule reads a rule: "allow TARGET" or "deny TARGET", as it stands in a policy
// file, or "allow-private TARGET", as String writes one that the command line gave.
func ParseRule(text string) (Rule, error) {
	if len(text) > maxRule {
		return Rule{}, badRule(text[:maxRule]+"…", "it is too long")
	}
	word, target, ok := strings.Cut(strings.TrimSpace(text), " ")
	if !ok || word != wordAllow && word != wordDeny && word != wordPrivate {
		return Rule{}, badRule(text, `it begins with neither "allow" nor "deny"`)
	}
	rule, err := ParseTarget(strings.TrimSpace(target))
	if err != nil {
		return Rule{}, err
	}
	rule.Allow = word != wordDeny
	rule.Private = word == wordPrivate
	if rule.Private && rule.Name != "" {
		return Rule{}, badRule(text, "a name never leads to a private address")
	}
	return rule, rule.check(text)
}

// ParseAllow reads the value of a flag --allow. An address or a network of a range
// that is refused always, or of isHost, is opened by it.
func ParseAllow(target string, isHost func(netip.Addr) bool) (Rule, error) {
	rule, err := ParseTarget(target)
	if err != nil {
		return Rule{}, err
	}
	rule.Allow = true
	if rule.Name == "" {
		_, refused := rule.inRefused()
		rule.Private = refused || rule.Prefix.IsSingleIP() && isHost != nil && isHost(rule.Prefix.Addr())
	}
	return rule, rule.check(target)
}

// ParseTarget reads HOST, ADDRESS or NETWORK, each with :PORT, :FIRST-LAST or :* and
// with /tcp or /udp after it if need be. An IPv6 address before a port stands in
// brackets.
func ParseTarget(text string) (Rule, error) {
	if len(text) > maxRule {
		return Rule{}, badRule(text[:maxRule]+"…", "it is too long")
	}
	var r Rule
	rest := text
	for _, proto := range []Proto{ProtoTCP, ProtoUDP} {
		if cut, ok := strings.CutSuffix(rest, "/"+string(proto)); ok {
			rest, r.Proto = cut, proto
			break
		}
	}
	host, ports, hasPorts := splitPorts(rest)
	if hasPorts {
		var err error
		if r.First, r.Last, err = parsePorts(ports); err != nil {
			return Rule{}, badRule(text, err.Error())
		}
	}
	if prefix, ok := parsePrefix(host); ok {
		r.Prefix = prefix
		return r, nil
	}
	if strings.ContainsAny(host, "/:[]") {
		return Rule{}, badRule(text, "it is no address, network or name")
	}
	r.Name = cleanName(host)
	bare := strings.TrimPrefix(r.Name, "*.")
	if err := checkHostName(bare); err != nil {
		return Rule{}, badRule(text, err.Error())
	}
	return r, nil
}

func badRule(text, why string) *banger.Error {
	return banger.Errorf(banger.CodeUsage, "rule %q is not understood: %s", text, why).
		WithHint("example.org, *.example.org, example.org:8443, 203.0.113.7:22, 198.51.100.0/24")
}

// splitPorts divides a target at the colon before its ports.
func splitPorts(text string) (host, ports string, ok bool) {
	if strings.HasPrefix(text, "[") {
		inner, after, closed := strings.Cut(text[1:], "]")
		if !closed || after != "" && after[0] != ':' {
			return text, "", false
		}
		return inner, strings.TrimPrefix(after, ":"), after != ""
	}
	if strings.Count(text, ":") != 1 { // an IPv6 address alone
		return text, "", false
	}
	return strings.Cut(text, ":")
}

func parsePorts(text string) (first, last uint16, err error) {
	if text == "*" {
		return 1, 65535, nil
	}
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	one := func(s string) uint16 {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || strings.HasPrefix(s, "+") {
			return 0
		}
		return uint16(n)
	}
	first, last = one(low), one(high)
	if first == 0 || last < first {
		return 0, 0, fmt.Errorf("%q is not a port, two with a hyphen, or *", text)
	}
	return first, last, nil
}

// parsePrefix reads an address or a network.
func parsePrefix(text string) (netip.Prefix, bool) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), true
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	if prefix.Addr().Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, false
		}
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), true
}

// ParsePrefixes reads addresses and networks; an address alone is a network of one.
func ParsePrefixes(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		prefix, ok := parsePrefix(text)
		if !ok {
			return nil, banger.Errorf(banger.CodeUsage, "network %q is neither an address nor a CIDR", text).WithHint("203.0.113.7, or 198.51.100.0/24")
		}
		list = append(list, prefix)
	}
	return list, nil
}

// inRefused is the refused range that the rule's network lies in.
func (r Rule) inRefused() (addressRange, bool) {
	found, ok := refusedRange(r.Prefix.Addr())
	return found, ok && r.Prefix.Bits() >= found.prefix.Bits()
}

// check refuses rules that could not mean what they say.
func (r Rule) check(text string) error {
	switch {
	case !r.Allow || r.Name == "":
		return nil
	case r.Proto != "" && r.First == 0:
		return badRule(text, "with /"+string(r.Proto)+" a name needs a port")
	case r.Proto == ProtoUDP && r.First <= 443 && r.Last >= 443:
		return badRule(text, "UDP to port 443 is QUIC, which hides for which name it is")
	case r.Proto == ProtoUDP && r.First <= 53 && r.Last >= 53:
		return badRule(text, "names are asked of the VM's own name server alone")
	}
	return nil
}

// String is the rule's text.
func (r Rule) String() string {
	word := wordDeny
	switch {
	case r.Private:
		word = wordPrivate
	case r.Allow:
		word = wordAllow
	}
	return word + " " + r.Target()
}

// Target is the rule's text without its first word.
func (r Rule) Target() string {
	text := r.Name
	if r.Name == "" {
		text = r.Prefix.String()
		if r.Prefix.IsSingleIP() {
			text = r.Prefix.Addr().String()
		}
		if r.First != 0 && r.Prefix.Addr().Is6() {
			text = "[" + text + "]"
		}
	}
	switch {
	case r.First == 1 && r.Last == 65535:
		text += ":*"
	case r.First != 0 && r.First == r.Last:
		text += fmt.Sprintf(":%d", r.First)
	case r.First != 0:
		text += fmt.Sprintf(":%d-%d", r.First, r.Last)
	}
	if r.Proto != "" {
		text += "/" + string(r.Proto)
	}
	return text
}

// hasPort reports whether the rule is about port.
func (r *Rule) hasPort(port uint16) bool {
	switch {
	case r.First != 0:
		return r.First <= port && port <= r.Last
	case r.Name != "" && r.Allow:
		return port == 80 || port == 443
	}
	return true
}
