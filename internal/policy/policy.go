package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	banger "github.com/banger-dev/banger"
)

const (
	// MaxRules bounds the rules of a policy, and maxText their text in all, in
	// bytes.
	MaxRules = 256
	maxText  = 32 << 10
)

// Policy is an ordered set of rules. The zero value denies everything, lookups
// too; Open is what a VM has that nobody gave a policy.
type Policy struct {
	// AllowRest is the verdict where no rule matches.
	AllowRest bool
	Rules     []Rule
	// Learn lets through what the rules refuse, and notes it. The ranges that are
	// refused always stay so.
	Learn bool
}

// Open is the policy without rules: all that is not refused always.
func Open() Policy { return Policy{AllowRest: true} }

// IsOpen reports whether the policy is that of Open.
func (p Policy) IsOpen() bool { return p.AllowRest && len(p.Rules) == 0 && !p.Learn }

// The words of a policy's default.
const (
	DefaultAllow = "allow"
	DefaultDeny  = "deny"
)

// Parse makes a policy of a default ("allow" or "deny") and the text of its rules.
// Rules that only the command line can give are refused unless trusted.
func Parse(fallback string, rules []string, trusted bool) (Policy, error) {
	p := Policy{AllowRest: fallback == DefaultAllow}
	if !p.AllowRest && fallback != DefaultDeny {
		return p, banger.Errorf(banger.CodeUsage, "default %q of the policy is neither allow nor deny", fallback).WithHint(`default = "deny"`)
	}
	for _, text := range rules {
		rule, err := ParseRule(text)
		if err != nil {
			return p, err
		}
		if !trusted && rule.Allow && rule.Name == "" {
			if r, refused := rule.inRefused(); refused || rule.Private {
				return p, banger.Errorf(banger.CodeUsage, "rule %q names an address of a range that only the command line or the config opens (%s)", text, r.reason).
					WithHint("take it out, and give --allow %s", rule.Target())
			}
		}
		p.Rules = append(p.Rules, rule)
	}
	return p, p.Check()
}

// Check refuses a policy that is too large.
func (p Policy) Check() error {
	size := 0
	for _, rule := range p.Rules {
		size += len(rule.String())
	}
	if len(p.Rules) > MaxRules || size > maxText {
		return banger.Errorf(banger.CodeUsage, "the policy is too large: %d rules of %d bytes, and %d or %d may be", len(p.Rules), size, MaxRules, maxText).
			WithHint("*.example.org stands for every name below example.org")
	}
	return nil
}

// Default is the word of the policy's default.
func (p Policy) Default() string {
	if p.AllowRest {
		return DefaultAllow
	}
	return DefaultDeny
}

// Texts are the rules' texts, in order.
func (p Policy) Texts() []string {
	texts := make([]string, len(p.Rules))
	for i, rule := range p.Rules {
		texts[i] = rule.String()
	}
	return texts
}

// Summary is the policy in a few words.
func (p Policy) Summary() string {
	if p.IsOpen() {
		return "open"
	}
	text := fmt.Sprintf("default %s, %d rules", p.Default(), len(p.Rules))
	if len(p.Rules) == 1 {
		text = fmt.Sprintf("default %s, 1 rule", p.Default())
	}
	if p.Learn {
		text = "learning: " + text
	}
	return text
}

// stored is a policy as it is kept.
type stored struct {
	Default string   `json:"default"`
	Rules   []string `json:"rules"`
	Learn   bool     `json:"learn,omitempty"`
}

// Marshal is the form in which a policy is kept; that of Open is empty.
func (p Policy) Marshal() string {
	if p.IsOpen() {
		return ""
	}
	data, err := json.Marshal(stored{p.Default(), p.Texts(), p.Learn})
	if err != nil { // there is nothing in it that could fail
		panic(err)
	}
	return string(data)
}

// Unmarshal reads what Marshal wrote; nothing is the policy of Open.
func Unmarshal(text string) (Policy, error) {
	if text == "" {
		return Open(), nil
	}
	var s stored
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Policy{}, banger.Errorf(banger.CodeFailed, "a policy that was kept is damaged: %w", err)
	}
	p, err := Parse(s.Default, s.Rules, true)
	p.Learn = s.Learn
	return p, err
}

// byName reports whether names matter to the policy: then lookups are part of it,
// and only plain ones are let out.
func (p *Policy) byName() bool {
	return !p.AllowRest || p.Learn || slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Name != "" })
}

// PlainLookups reports whether what is asked and answered about names is brought
// to a plain form, in which little can be hidden.
func (g *Gate) PlainLookups() bool { return g.Policy.byName() }

// lookup decides whether name may be asked for.
func (p *Policy) lookup(name string, record uint16) Verdict {
	name = cleanName(name)
	for i := range p.Rules {
		r := &p.Rules[i]
		switch {
		case r.Name == "" || !r.named(name):
		case !r.Allow && r.First != 0: // some of its ports may be allowed
		case !r.Allow:
			return Verdict{Reason: ReasonName, Rule: r.String()}
		case len(r.wild(name)) > maxWild:
			return Verdict{Reason: ReasonLongName, Rule: r.String()}
		case !plainRecord(record):
			return Verdict{Reason: ReasonRecord, Rule: r.String()}
		default:
			return Verdict{Allow: true, Rule: r.String()}
		}
	}
	switch {
	case !p.AllowRest:
		return Verdict{Reason: ReasonName, Rule: p.rest()}
	case p.byName() && !plainRecord(record):
		return Verdict{Reason: ReasonRecord, Rule: p.rest()}
	}
	return Verdict{Allow: true, Rule: p.rest()}
}

func (p *Policy) rest() string { return "default " + p.Default() }

// plainRecord reports whether records of a type tell where a host is. All others
// could carry anything; HTTPS and SVCB (RFC 9460) would also lead to QUIC and hide
// names.
func plainRecord(record uint16) bool {
	switch record {
	case 1, 2, 5, 6, 12, 15, 28, 33: // A NS CNAME SOA PTR MX AAAA SRV
		return true
	}
	return false
}

// match is how well a rule fits a flow.
type match int

const (
	no    match = iota
	maybe       // if its bytes are for the rule's name
	yes
)

// flow decides a TCP or UDP flow by the rules, and returns the rule that did, nil
// for the default.
func (p *Policy) flow(f Flow) (Verdict, *Rule) {
	var hope, by *Rule
	inspect := false
	for i := range p.Rules {
		r := &p.Rules[i]
		how := r.match(f)
		if how == yes {
			by = r
			break
		}
		if how == maybe {
			inspect = true
			if hope == nil && r.Allow {
				hope = r
			}
		}
	}
	v := Verdict{Allow: p.AllowRest, Rule: p.rest(), Reason: p.why(f)}
	if by != nil {
		v.Allow, v.Rule = by.Allow, by.String()
	} else if p.AllowRest && p.byName() && f.otherServer() {
		v.Allow, v.Reason, v.Rule = false, ReasonServer, "names are asked of the VM's own name server"
	}
	switch {
	case v.Allow:
		v.Reason, v.Inspect = "", inspect
	case hope != nil:
		return Verdict{Allow: true, Rule: hope.String(), Inspect: true, Hold: true}, nil
	}
	return v, by
}

// why is the reason of a refusal by the rules.
func (p *Policy) why(f Flow) Reason {
	reached := slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Allow && r.Name != "" && r.knows(f.Known) })
	switch {
	case !reached:
		return ReasonRule
	case f.Proto == ProtoUDP && f.Dst.Port() == 443:
		return ReasonQUIC
	case f.Speech != Unheard:
		return ReasonHostName
	}
	return ReasonRule
}

// otherServer reports whether a flow looks like questions to a name server.
func (f *Flow) otherServer() bool { return f.Dst.Port() == 53 || f.Dst.Port() == 853 }

// match fits a rule to a flow.
func (r *Rule) match(f Flow) match {
	switch {
	case !r.hasPort(f.Dst.Port()), r.Proto != "" && r.Proto != f.Proto:
		return no
	case r.Name == "":
		return when(r.Prefix.Contains(f.Dst.Addr()))
	case r.Proto != "":
		return when(r.knows(f.Known))
	case f.Proto != ProtoTCP:
		return no
	case r.Allow && !r.knows(f.Known):
		return no
	}
	switch f.Speech {
	case Unheard:
		return maybe
	case TLS, HTTP:
		return when(r.named(CleanHost(f.Name)))
	case SSH:
		return when(r.First != 0 && r.knows(f.Known))
	}
	return no
}

func when(ok bool) match {
	if ok {
		return yes
	}
	return no
}

// knows reports whether one of names is the rule's.
func (r *Rule) knows(names []string) bool { return slices.ContainsFunc(names, r.named) }

// Check decides a connection to target, HOST:PORT, as if host had been looked up
// and the bytes were for it. A target without a port is one to port 443.
func (g *Gate) Check(target string) (Verdict, error) {
	rule, err := ParseTarget(target)
	switch {
	case err != nil:
		return Verdict{}, err
	case rule.First != rule.Last, rule.Name != "" && rule.Name[0] == '*', rule.Name == "" && !rule.Prefix.IsSingleIP():
		return Verdict{}, banger.Errorf(banger.CodeUsage, "%q is not one host and port", target).WithHint("example.org:443, or 203.0.113.7:22/udp")
	}
	port := rule.First
	if port == 0 {
		port = 443
	}
	f := Flow{Proto: ProtoTCP, Dst: netip.AddrPortFrom(rule.Prefix.Addr(), port), Speech: Other}
	if rule.Proto != "" {
		f.Proto = rule.Proto
	}
	if rule.Name == "" {
		return g.Decide(f), nil
	}
	if v := g.Decide(Flow{Proto: ProtoDNS, Name: rule.Name, Type: 1}); !v.Allow || v.WouldRefuse {
		return v, nil
	}
	f.Known, f.Name, f.Speech = []string{rule.Name}, rule.Name, TLS
	if port == 22 {
		f.Speech = SSH
	}
	// An address that nothing is known of stands for those of the name.
	f.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), port)
	return g.Decide(f), nil
}
