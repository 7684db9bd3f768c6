package suggest

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/banger-dev/banger/internal/policy"
)

// flow is an entry of learning.
func flow(proto policy.Proto, speech policy.Speech, name, dst string, answered bool) policy.Entry {
	at := netip.MustParseAddrPort(dst)
	return policy.Entry{Verdict: policy.VerdictLearned, Proto: proto, Speech: speech, Name: name, Address: at.Addr(), Port: at.Port(), Answered: answered}
}

func lookup(name string) policy.Entry {
	return policy.Entry{Verdict: policy.VerdictLearned, Proto: policy.ProtoDNS, Name: name}
}

func suggested(t *testing.T, known policy.Policy, entries ...policy.Entry) (rules, private []string) {
	t.Helper()
	l := New()
	for _, e := range entries {
		l.Add(e)
	}
	p, private, err := l.Policy(known)
	if err != nil {
		t.Fatal(err)
	}
	return p.Texts(), private
}

func TestPolicy(t *testing.T) {
	const tcp, udp = policy.ProtoTCP, policy.ProtoUDP
	known, err := policy.Parse(policy.DefaultDeny, []string{"deny 203.0.113.99", "allow-private 10.9.9.9:1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	rules, private := suggested(t, known,
		lookup("web.example.org"), flow(tcp, policy.TLS, "web.example.org", "203.0.113.1:443", true), flow(tcp, policy.HTTP, "web.example.org", "203.0.113.1:80", true),
		lookup("git.example.org"), flow(tcp, policy.SSH, "git.example.org", "203.0.113.2:22", true),
		flow(tcp, policy.Other, "db.example.com", "203.0.113.3:5432", true),
		flow(udp, "", "time.example.com", "203.0.113.4:123", true), flow(udp, "", "quick.example.com", "203.0.113.4:443", true),
		flow(tcp, policy.TLS, "hard.coded", "203.0.113.5:443", false), flow(tcp, policy.Other, "", "203.0.113.6:9000", false), flow(udp, "", "", "203.0.113.6:9001", false),
		lookup("a.s3.example.net"), lookup("b.s3.example.net"), flow(tcp, policy.TLS, "c.s3.example.net", "203.0.113.7:443", true),
		lookup("one.co.uk"), lookup("two.co.uk"), lookup("three.co.uk"), lookup("x.com"), lookup("y.com"), lookup("z.com"),
		lookup("odd name"), lookup(""),
		policy.Entry{Verdict: policy.VerdictRefused, Proto: tcp, Address: netip.MustParseAddr("10.0.0.1"), Port: 22, Reason: policy.ReasonPrivate},
		policy.Entry{Verdict: policy.VerdictRefused, Proto: tcp, Address: netip.MustParseAddr("203.0.113.8"), Port: 22, Reason: policy.ReasonRule},
	)
	want := []string{
		"deny 203.0.113.99", "allow *.s3.example.net", "allow 203.0.113.5:443", "allow 203.0.113.6:9000", "allow 203.0.113.6:9001/udp",
		"allow db.example.com:5432/tcp", "allow git.example.org:22", "allow one.co.uk", "allow quick.example.com",
		"allow three.co.uk", "allow time.example.com:123/udp", "allow two.co.uk", "allow web.example.org", "allow x.com", "allow y.com", "allow z.com",
	}
	if !slices.Equal(rules, want) || !slices.Equal(private, []string{"10.0.0.1:22", "10.9.9.9:1"}) {
		t.Errorf("got  %q\nwant %q\nprivate %q", rules, want, private)
	}
}

// What a flow needed is allowed by what was learned from it.
func TestLearnedAllows(t *testing.T) {
	for _, e := range []policy.Entry{
		flow(policy.ProtoTCP, policy.TLS, "a.example", "203.0.113.1:443", true), flow(policy.ProtoTCP, policy.TLS, "a.example", "203.0.113.1:8443", true),
		flow(policy.ProtoTCP, policy.SSH, "a.example", "203.0.113.1:22", true), flow(policy.ProtoTCP, policy.SSH, "a.example", "203.0.113.1:443", true),
		flow(policy.ProtoTCP, policy.Other, "a.example", "203.0.113.1:80", true), flow(policy.ProtoUDP, "", "a.example", "203.0.113.1:123", true),
		flow(policy.ProtoTCP, policy.HTTP, "203.0.113.1", "203.0.113.1:80", false), flow(policy.ProtoUDP, "", "", "203.0.113.1:53", false),
	} {
		l := New()
		l.Add(e)
		p, _, err := l.Policy(policy.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		f := policy.Flow{Proto: e.Proto, Dst: netip.AddrPortFrom(e.Address, e.Port), Speech: e.Speech, Name: e.Name}
		if e.Answered {
			f.Known = []string{e.Name}
		}
		if v := (&policy.Gate{NAT: true, Policy: p}).Decide(f); !v.Allow {
			t.Errorf("%+v: %q refuses it: %+v", e, p.Texts(), v)
		}
	}
}

func TestBounded(t *testing.T) {
	l := New()
	for i := range 2 * maxTargets {
		l.Add(lookup(fmt.Sprintf("h%d.d%d.example", i, i)))
	}
	if len(l.names) != maxTargets {
		t.Errorf("%d names", len(l.names))
	}
	if _, _, err := l.Policy(policy.Policy{}); err == nil {
		t.Error("a policy that is too large is suggested")
	}
}

// FuzzLog: whatever a log holds, what is suggested can be read as a policy.
func FuzzLog(f *testing.F) {
	f.Add(flow(policy.ProtoTCP, policy.TLS, "a.b", "203.0.113.1:443", true).Line())
	f.Add([]byte(`{"left_out":3}`))
	f.Fuzz(func(t *testing.T, log []byte) {
		l := New()
		for line := range bytes.Lines(log) {
			if e, ok := policy.ParseEntry(line); ok {
				l.Add(e)
			}
		}
		p, _, err := l.Policy(policy.Policy{})
		if err != nil {
			return
		}
		if _, err := policy.Parse(p.Default(), p.Texts(), false); err != nil {
			t.Fatal(err)
		}
	})
}
