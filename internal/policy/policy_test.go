package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
)

func TestRuleText(t *testing.T) {
	for text, want := range map[string]string{
		"allow example.org": "allow example.org", "deny Example.ORG.": "deny example.org",
		"allow *.example.org:8443": "allow *.example.org:8443", "allow a.b:8000-8010": "allow a.b:8000-8010",
		"allow git.example:22/tcp": "allow git.example:22/tcp", "allow ntp.example:123/udp": "allow ntp.example:123/udp",
		"allow a.b:*": "allow a.b:*", "allow 203.0.113.7": "allow 203.0.113.7", "allow 203.0.113.7/24": "allow 203.0.113.0/24",
		"allow 198.51.100.0/24:22": "allow 198.51.100.0/24:22", "deny 0.0.0.0/0:25": "deny 0.0.0.0/0:25",
		"allow 2001:db8::1": "allow 2001:db8::1", "allow [2001:db8::1]:443": "allow [2001:db8::1]:443",
		"allow [2001:db8::/32]:443/udp": "allow [2001:db8::/32]:443/udp", "allow ::ffff:1.2.3.4": "allow 1.2.3.4",
		"allow-private 10.0.0.1:80": "allow-private 10.0.0.1:80", "allow 203.0.113.7/udp": "allow 203.0.113.7/udp",
		"allow xn--bcher-kva.example": "allow xn--bcher-kva.example",
	} {
		rule, err := ParseRule(text)
		if err != nil || rule.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, rule.String(), err, want)
		}
	}
	for _, text := range []string{
		"", "allow", "permit a.b", "allow ", "allow a b", "allow *", "allow *.", "allow a.*.b", "allow a..b", "allow .a",
		"allow a.b:0", "allow a.b:65536", "allow a.b:2-1", "allow a.b:+1", "allow a.b:", "allow 1.2.3", "allow 1.2.3.4.5",
		"allow 1.2.3.4/33", "allow a.b/24", "allow [::1", "allow [::1]x", "allow [a.b]:1:2", "allow bücher.example", "allow fe80::1%eth0",
		"allow a.b/tcp", "allow a.b/udp", "allow a.b:443/udp", "allow a.b:1-65535/udp", "allow a.b:53/udp", "allow-private a.b",
		"allow " + strings.Repeat("a", 64) + ".b", "allow " + strings.Repeat("a.", 200) + "b", "allow a.b:80\nallow c.d",
	} {
		if rule, err := ParseRule(text); err == nil || banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("%q is taken as %q (%v)", text, rule, err)
		}
	}
}

// rules is a gate with a policy that denies the rest.
func rules(t testing.TB, texts ...string) *Gate {
	t.Helper()
	g := open(nil)
	var err error
	if g.Policy, err = Parse(DefaultDeny, texts, true); err != nil {
		t.Fatal(err)
	}
	return g
}

// tcp is a connection to an address that was answered for names.
func tcp(dst string, speech Speech, name string, known ...string) Flow {
	return Flow{Proto: ProtoTCP, Dst: netip.MustParseAddrPort(dst), Speech: speech, Name: name, Known: known}
}

func TestNameRules(t *testing.T) {
	g := rules(t, "deny secret.example.org", "allow *.example.org", "allow example.org", "allow git.example:22", "allow db.example:5432/tcp",
		"allow ntp.example:123/udp", "allow 198.51.100.0/24:80", "deny 0.0.0.0/0:25")
	const addr = "203.0.113.80"
	for name, c := range map[string]struct {
		flow Flow
		want string // "" or the reason; "hold" where the bytes decide
	}{
		"not answered":            {tcp(addr+":443", Unheard, ""), "rule"},
		"answered":                {tcp(addr+":443", Unheard, "", "www.example.org"), "hold"},
		"the apex":                {tcp(addr+":80", HTTP, "Example.org:80", "example.org"), ""},
		"other port":              {tcp(addr+":8443", Unheard, "", "example.org"), "rule"},
		"sni":                     {tcp(addr+":443", TLS, "www.example.org", "www.example.org"), ""},
		"a sibling":               {tcp(addr+":443", TLS, "api.example.org", "www.example.org"), ""},
		"a neighbour":             {tcp(addr+":443", TLS, "evil.example", "www.example.org"), "host"},
		"denied neighbour":        {tcp(addr+":443", TLS, "secret.example.org", "www.example.org"), "host"},
		"other rule's name":       {tcp(addr+":443", TLS, "example.org", "www.example.org"), "host"},
		"no name":                 {tcp(addr+":443", Other, "", "www.example.org"), "host"},
		"suffix only":             {tcp(addr+":443", TLS, "badexample.org", "badexample.org", "www.example.org"), "host"},
		"ssh, port named":         {tcp(addr+":22", SSH, "", "git.example"), ""},
		"other, port named":       {tcp(addr+":22", Other, "", "git.example"), "host"},
		"ssh to 443":              {tcp(addr+":443", SSH, "", "www.example.org"), "host"},
		"raw":                     {tcp(addr+":5432", Unheard, "", "db.example"), ""},
		"raw, not answered":       {tcp(addr+":5432", Unheard, ""), "rule"},
		"by address":              {tcp("198.51.100.9:80", Unheard, ""), ""},
		"by address, other port":  {tcp("198.51.100.9:443", Unheard, ""), "rule"},
		"address or name":         {tcp("198.51.100.9:80", HTTP, "any.example", "example.org"), ""},
		"udp":                     {Flow{Proto: ProtoUDP, Dst: netip.MustParseAddrPort(addr + ":123"), Known: []string{"ntp.example"}}, ""},
		"quic":                    {Flow{Proto: ProtoUDP, Dst: netip.MustParseAddrPort(addr + ":443"), Known: []string{"example.org"}}, "quic"},
		"private, though a name":  {tcp("10.0.0.1:443", TLS, "www.example.org", "www.example.org"), "private"},
		"loopback, though a name": {tcp("127.0.0.1:80", Unheard, "", "example.org"), "loopback"},
		"another name server":     {Flow{Proto: ProtoUDP, Dst: netip.MustParseAddrPort("9.9.9.9:53")}, "rule"},
	} {
		v := g.Decide(c.flow)
		got := string(v.Reason)
		if v.Hold {
			got = "hold"
		}
		if got != c.want || v.Allow != (c.want == "" || c.want == "hold") || v.Rule == "" {
			t.Errorf("%s: %+v, want %q", name, v, c.want)
		}
	}
}

func TestLookups(t *testing.T) {
	g := rules(t, "deny secret.example.org", "deny a.example.org:25", "allow *.example.org", "allow 203.0.113.0/24")
	const a, txt, https = 1, 16, 65
	for _, c := range []struct {
		name   string
		record uint16
		want   Reason
	}{
		{"www.example.org.", a, ""}, {"WWW.Example.Org.", 28, ""}, {"a.b.c.example.org", a, ""}, {"a.example.org", a, ""},
		{"example.org", a, ReasonName}, {"secret.example.org", a, ReasonName}, {"example.com", a, ReasonName},
		{"www.example.org", txt, ReasonRecord}, {"www.example.org", https, ReasonRecord}, {"www.example.org", 64, ReasonRecord},
		{"www.example.org", 255, ReasonRecord}, {"www.example.org", 10, ReasonRecord},
		{"x.evil.example", txt, ReasonName}, {".", 2, ReasonName}, {"", a, ReasonName},
		{strings.Repeat("a", 63) + ".example.org", a, ""}, {strings.Repeat("a", 40) + "." + strings.Repeat("b", 40) + ".example.org", a, ReasonLongName},
		{"7.113.0.203.in-addr.arpa", 12, ReasonName},
	} {
		if v := g.Decide(Flow{Proto: ProtoDNS, Name: c.name, Type: c.record}); v.Reason != c.want || v.Allow != (c.want == "") {
			t.Errorf("%s, type %d: %+v, want %q", c.name, c.record, v, c.want)
		}
	}
	if v := open(nil).Decide(Flow{Proto: ProtoDNS, Name: "x.", Type: txt}); !v.Allow {
		t.Errorf("without rules: %+v", v)
	}
}

// A policy that allows the rest still keeps out what it denies by name, wherever
// its address is from, and other name servers that would answer for it.
func TestDenyByName(t *testing.T) {
	g := open(nil)
	var err error
	if g.Policy, err = Parse(DefaultAllow, []string{"deny *.tracker.example"}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flow Flow
		want Reason
	}{
		{tcp("203.0.113.1:443", TLS, "x.tracker.example"), ReasonRule}, {tcp("203.0.113.1:443", TLS, "x.example"), ""},
		{tcp("203.0.113.1:9999", Other, ""), ""}, {tcp("9.9.9.9:53", Unheard, ""), ReasonServer}, {tcp("9.9.9.9:853", Unheard, ""), ReasonServer},
		{Flow{Proto: ProtoDNS, Name: "a.tracker.example.", Type: 1}, ReasonName}, {Flow{Proto: ProtoDNS, Name: "b.example.", Type: 16}, ReasonRecord},
	} {
		if v := g.Decide(c.flow); v.Reason != c.want || v.Hold {
			t.Errorf("%+v: %+v, want %q", c.flow, v, c.want)
		}
	}
	if v := g.Decide(tcp("203.0.113.1:443", Unheard, "")); !v.Allow || !v.Inspect {
		t.Errorf("not looked at: %+v", v)
	}
}

func TestPrivateOnlyLiterally(t *testing.T) {
	host := func(a netip.Addr) bool { return a == testHost }
	for _, c := range []struct {
		allow, dst string
		want       bool
	}{
		{"10.0.0.1", "10.0.0.1:80", true}, {"10.0.0.1:80", "10.0.0.1:81", false}, {"10.0.0.0/8", "10.9.9.9:1", true},
		{"0.0.0.0/0", "10.0.0.1:80", false}, {"0.0.0.0/0", "8.8.8.8:80", true}, {"8.0.0.0/6", "10.0.0.1:80", false},
		{"169.254.0.0/16", "169.254.169.254:80", false}, {"169.254.169.254", "169.254.169.254:80", true},
		{"203.0.113.9", "203.0.113.9:80", true}, {"203.0.113.0/24", "203.0.113.9:80", false}, {"192.168.127.1", "192.168.127.1:80", false},
		{"127.0.0.1:8080", "127.0.0.1:8080", true}, {"::ffff:10.0.0.1", "10.0.0.1:1", true},
	} {
		rule, err := ParseAllow(c.allow, host)
		if err != nil {
			t.Fatal(err)
		}
		g := rules(t, rule.String())
		if v := g.Decide(tcp(c.dst, Unheard, "")); v.Allow != c.want {
			t.Errorf("--allow %s: %s is %+v", c.allow, c.dst, v)
		}
	}
	for _, text := range []string{"allow 10.0.0.1", "allow 10.0.0.0/24:80", "allow-private 10.0.0.1", "allow-private 8.8.8.8", "allow fd00::1"} {
		if _, err := Parse(DefaultDeny, []string{text}, false); err == nil {
			t.Errorf("a file's %q is taken", text)
		}
	}
	if _, err := Parse(DefaultDeny, []string{"deny 10.0.0.0/8", "allow 0.0.0.0/0"}, false); err != nil {
		t.Error(err)
	}
}

func TestLearn(t *testing.T) {
	g := rules(t, "allow example.org")
	g.Policy.Learn = true
	if v := g.Decide(tcp("203.0.113.1:443", Unheard, "")); !v.Allow || !v.Inspect || v.Hold || v.WouldRefuse {
		t.Errorf("not heard: %+v", v)
	}
	if v := g.Decide(tcp("203.0.113.1:443", TLS, "a.example")); !v.Allow || !v.WouldRefuse || v.Reason != ReasonRule {
		t.Errorf("heard: %+v", v)
	}
	if v := g.Decide(tcp("203.0.113.1:443", TLS, "example.org", "example.org")); !v.Allow || v.WouldRefuse {
		t.Errorf("allowed: %+v", v)
	}
	if v := g.Decide(Flow{Proto: ProtoDNS, Name: "x.example.", Type: 16}); !v.Allow || !v.WouldRefuse {
		t.Errorf("lookup: %+v", v)
	}
	if v := g.Decide(tcp("10.0.0.1:443", Unheard, "")); v.Allow || v.Reason != ReasonPrivate {
		t.Errorf("private: %+v", v)
	}
}

func TestKept(t *testing.T) {
	p, err := Parse(DefaultDeny, []string{"allow *.example.org", "deny 203.0.113.0/24:25", "allow-private 10.0.0.1"}, true)
	if err != nil {
		t.Fatal(err)
	}
	p.Learn = true
	got, err := Unmarshal(p.Marshal())
	if err != nil || got.Marshal() != p.Marshal() || !got.Learn || got.AllowRest {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Unmarshal(""); err != nil || !got.IsOpen() {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"x", "{}", `{"default":"deny","rules":["x"]}`} {
		if _, err := Unmarshal(text); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
	if _, err := Parse(DefaultDeny, slices.Repeat([]string{"allow a.b"}, MaxRules+1), false); err == nil {
		t.Error("too many rules are taken")
	}
}

func TestAnswers(t *testing.T) {
	a, now := NewAnswers(), time.Unix(1e9, 0)
	addr := netip.MustParseAddr("203.0.113.1")
	a.Add("One.example.", addr, 0, now)
	a.Add("two.example.", addr, time.Hour, now)
	a.Add("one.example.", addr, 10*time.Second, now)
	if got := a.Known(addr, now); !slices.Equal(got, []string{"one.example", "two.example"}) || a.count != 2 {
		t.Errorf("%v, %d", got, a.count)
	}
	if got := a.Known(netip.MustParseAddr("::ffff:203.0.113.1"), now.Add(MinTTL)); !slices.Equal(got, []string{"two.example"}) {
		t.Errorf("after its time: %v", got)
	}
	for i := range 3 * maxAnswers {
		a.Add(fmt.Sprintf("n%d.example", i), netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), time.Hour, now)
	}
	for i := range 2 * maxKnown {
		a.Add(fmt.Sprintf("m%d.example", i), addr, time.Hour, now)
	}
	total := 0
	for _, list := range a.names {
		total += len(list)
	}
	if a.count > maxAnswers || total != a.count || len(a.Known(addr, now)) != maxKnown {
		t.Errorf("%d kept, %d counted, %d for one", total, a.count, len(a.names[addr]))
	}
}

func TestCheckTarget(t *testing.T) {
	g := rules(t, "deny no.example.org", "allow *.example.org", "allow 203.0.113.7:22", "allow git.example:22")
	for target, want := range map[string]bool{
		"www.example.org": true, "www.example.org:443": true, "www.example.org:80": true, "www.example.org:22": false, "no.example.org": false,
		"example.com:443": false, "203.0.113.7:22": true, "203.0.113.7": false, "10.0.0.1:22": false, "git.example:22": true, "www.example.org:443/udp": false,
	} {
		v, err := g.Check(target)
		if err != nil || v.Allow != want {
			t.Errorf("%s: %+v, %v", target, v, err)
		}
	}
	for _, target := range []string{"*.example.org", "203.0.113.0/24", "a.b:1-2", "", "a b"} {
		if _, err := g.Check(target); err == nil {
			t.Errorf("%q is taken", target)
		}
	}
}

// FuzzRule: what is taken comes back the same, and decides without a panic.
func FuzzRule(f *testing.F) {
	for _, seed := range []string{"allow *.example.org:443", "deny [2001:db8::/32]:1-2/udp", "allow-private 10.0.0.0/8:*", "allow a:1/tcp"} {
		f.Add(seed, "www.example.org")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		rule, err := ParseRule(text)
		if err != nil {
			return
		}
		again, err := ParseRule(rule.String())
		if err != nil || again != rule {
			t.Fatalf("%q became %q, %v", rule, again, err)
		}
		g := open(nil)
		g.Policy = Policy{Rules: []Rule{rule}}
		for _, speech := range []Speech{Unheard, TLS, HTTP, SSH, Other} {
			v := g.Decide(tcp("203.0.113.1:443", speech, name, name))
			if v.Allow && rule.Name != "" && !rule.named(cleanName(name)) && !rule.named(CleanHost(name)) {
				t.Fatalf("%q lets %q through", rule, name)
			}
		}
		g.Decide(Flow{Proto: ProtoDNS, Name: name, Type: 1})
	})
}

// FuzzKept reads anything as a policy that was kept.
func FuzzKept(f *testing.F) {
	f.Add(`{"default":"deny","rules":["allow a.b"],"learn":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Unmarshal(text)
		if err != nil {
			return
		}
		if again, err := Unmarshal(p.Marshal()); err != nil || again.Marshal() != p.Marshal() {
			t.Fatalf("%s became %s, %v", p.Marshal(), again.Marshal(), err)
		}
	})
}
