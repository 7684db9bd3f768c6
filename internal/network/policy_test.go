package network

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/banger-dev/banger/internal/policy"
)

// zone is a name server that knows where names are, and what it was asked.
type zone struct {
	hosts map[string]netip.Addr

	mu    sync.Mutex
	asked [][]byte
}

func (z *zone) answer(message []byte) []byte {
	z.mu.Lock()
	z.asked = append(z.asked, slices.Clone(message))
	z.mu.Unlock()
	q, _ := parseQuery(message)
	name := q.question.Name
	header := func(owner dnsmessage.Name) dnsmessage.ResourceHeader {
		return dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 300}
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: q.header.ID, Response: true}, Questions: []dnsmessage.Question{q.question}}
	addr, ok := z.hosts[strings.TrimSuffix(name.String(), ".")]
	if !ok {
		m.RCode = dnsmessage.RCodeNameError
	} else if q.question.Type == dnsmessage.TypeA {
		alias := dnsmessage.MustNewName("edge.cdn.example.")
		m.Answers = []dnsmessage.Resource{
			{Header: header(name), Body: &dnsmessage.CNAMEResource{CNAME: alias}},
			{Header: header(alias), Body: &dnsmessage.AResource{A: addr.As4()}},
			{Header: header(name), Body: &dnsmessage.UnknownResource{Type: typeHTTPS, Data: []byte{0, 1, 0}}},
			{Header: header(name), Body: &dnsmessage.TXTResource{TXT: []string{"x"}}},
		}
		m.Additionals = []dnsmessage.Resource{{Header: header(name), Body: &dnsmessage.TXTResource{TXT: []string{"y"}}}}
	}
	packed, _ := m.Pack()
	return packed
}

// ruled is a network with a policy, and a guest on it that has looked the names up.
func ruled(t testing.TB, out *outside, rules []string, lookups ...string) (*Network, *guest, *zone) {
	t.Helper()
	z := &zone{hosts: map[string]netip.Addr{}}
	for _, name := range []string{"a.example", "b.example", "good.example"} {
		z.hosts[name] = out.addr
	}
	p, err := policy.Parse(policy.DefaultDeny, rules, true)
	if err != nil {
		t.Fatal(err)
	}
	n, g := start(t, Config{NAT: true, Policy: &p, DNSUpstream: out.listenUDP(0, z.answer).String()})
	for _, name := range lookups {
		if m := g.askUDP(questionFor(name, dnsmessage.TypeA)); m.RCode != 0 || len(m.Answers) != 2 {
			t.Fatalf("%s: %+v", name, m)
		}
	}
	return n, g, z
}

func questionFor(name string, kind dnsmessage.Type) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}},
	}
	opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 65001, Data: []byte("secret")}}}}
	_ = opt.Header.SetEDNS0(4096, 0, true)
	m.Additionals = []dnsmessage.Resource{opt}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packed
}

// ask sends text on a new connection and returns what comes back.
func (g *guest) ask(dst netip.AddrPort, text string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := g.dial(ctx, dst)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline(g.t, conn)
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func get(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

func TestOnlyTheNamesOfTheRules(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	port := ":" + server.String()[strings.LastIndexByte(server.String(), ':')+1:]
	n, g, z := ruled(t, out, []string{"allow a.example" + port, "allow good.example" + port + "/tcp"}, "a.example")
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{get("a.example"), true}, {get("A.Example.:80") + get("a.example"), true}, {"SSH-2.0-x\r\nmore", true},
		{get("b.example"), false}, {get("a.example") + get("b.example"), false}, {"hello\n", false}, {"\x00\x01", false}, {"", false},
		{"GET / HTTP/1.1\r\nHost: a.exam", false},
	} {
		got, err := g.ask(server, c.text)
		if c.ok && (err != nil || got != c.text) || !c.ok && err == nil {
			t.Errorf("%q: %q, %v", c.text, got, err)
		}
		if !c.ok && strings.Contains(got, "b.example") {
			t.Errorf("%q reached the neighbour", c.text)
		}
	}
	// Another rule lets anything through, once its name is known to be there.
	if m := g.askUDP(questionFor("good.example", dnsmessage.TypeA)); len(m.Answers) != 2 {
		t.Fatalf("%+v", m)
	}
	if got, err := g.ask(server, "hello\n"); err != nil || got != "hello\n" {
		t.Errorf("raw: %q, %v", got, err)
	}
	if c := n.Counters(); c.Refused[policy.ReasonHostName] < 4 {
		t.Errorf("%+v", c)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, message := range z.asked {
		if strings.Contains(string(message), "secret") {
			t.Error("an option of the guest's left")
		}
	}
}

func TestServerName(t *testing.T) {
	out := newOutside(t)
	server := out.listen(func(conn *net.TCPConn) {
		_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			return nil, errors.New("it came: " + h.ServerName)
		}}).Handshake()
	})
	p := ":" + server.String()[strings.LastIndexByte(server.String(), ':')+1:]
	_, g, _ := ruled(t, out, []string{"allow *.example" + p}, "a.example")
	for name, want := range map[string]string{"a.example": "internal error", "b.other": "reset", "": "reset"} {
		conn := g.mustDial(server)
		err := tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

// What looks like TLS or SSH to us, and is a line of rubbish before a request to a
// server of HTTP, is no way to its other hosts.
func TestTheServerConfirms(t *testing.T) {
	out := newOutside(t)
	got := make(chan string, 8)
	server := out.listen(func(conn *net.TCPConn) {
		first := make([]byte, 4096)
		n, _ := conn.Read(first)
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		rest, _ := io.ReadAll(conn)
		got <- string(first[:n]) + string(rest)
	})
	port := ":" + server.String()[strings.LastIndexByte(server.String(), ':')+1:]
	n, g, _ := ruled(t, out, []string{"allow a.example" + port}, "a.example")
	hello := new(helloRecorder)
	_ = tls.Client(hello, &tls.Config{ServerName: "a.example"}).Handshake()
	for _, opening := range []string{"SSH-2.0-x\r\n", string(hello.sent)} {
		if answer, err := g.ask(server, opening+get("b.example")); err == nil || answer != "" {
			t.Errorf("%.10q: %q, %v", opening, answer, err)
		}
		if sent := <-got; strings.Contains(sent, "b.example") {
			t.Errorf("%q reached the server", sent)
		}
	}
	if c := n.Counters(); c.Refused[policy.ReasonHostName] != 2 {
		t.Errorf("%+v", c)
	}
}

// helloRecorder keeps what a client says first, and answers with an error.
type helloRecorder struct {
	net.Conn
	sent []byte
}

func (h *helloRecorder) Write(p []byte) (int, error) {
	h.sent = append(h.sent, p...)
	return len(p), nil
}
func (h *helloRecorder) Read([]byte) (int, error) { return 0, io.EOF }
func (h *helloRecorder) Close() error             { return nil }

func TestLookupsArePartOfThePolicy(t *testing.T) {
	out := newOutside(t)
	other := out.listenUDP(0, func(b []byte) []byte { return b })
	n, g, z := ruled(t, out, []string{"allow *.example"}, "a.example")
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want dnsmessage.RCode
	}{
		{"B.eXample", dnsmessage.TypeA, 0}, {"none.example", dnsmessage.TypeA, 3}, {"a.evil", dnsmessage.TypeA, 3}, {"s3cr3t.evil", dnsmessage.TypeTXT, 3},
		{"a.example", dnsmessage.TypeTXT, 0}, {"a.example", typeHTTPS, 0},
		{strings.Repeat("x", 60) + "." + strings.Repeat("y", 60) + ".example", dnsmessage.TypeA, 3},
	} {
		m := g.askUDP(questionFor(c.name, c.kind))
		if m.RCode != c.want || m.Questions[0].Name.String() != c.name+"." || len(m.Authorities) > 1 || len(m.Additionals) != 1 {
			t.Errorf("%s: %+v", c.name, m)
		}
		for _, r := range m.Answers {
			if !isPlain(r.Header.Type) || c.kind != dnsmessage.TypeA {
				t.Errorf("%s: %v comes in", c.name, r)
			}
		}
	}
	z.mu.Lock()
	for _, message := range z.asked {
		q, _ := parseQuery(message)
		if name := q.question.Name.String(); strings.Contains(name, "evil") || strings.Contains(name, "xx") || name != strings.ToLower(name) ||
			q.question.Type != dnsmessage.TypeA || strings.Contains(string(message), "secret") {
			t.Errorf("%q was asked outside", message)
		}
	}
	z.mu.Unlock()
	conn := g.dialUDP(other)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another server is refused", func() bool { return n.Counters().Refused[policy.ReasonRule] == 1 })
	if c := n.Counters(); c.Refused[policy.ReasonName] != 2 || c.Refused[policy.ReasonRecord] != 2 || c.Refused[policy.ReasonLongName] != 1 {
		t.Errorf("%+v", c)
	}
}

func TestSetPolicyCuts(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	datagrams := out.listenUDP(0, func(b []byte) []byte { return b })
	n, g := start(t, Config{NAT: true})
	kept, cut := g.mustDial(server), g.mustDial(netip.AddrPortFrom(server.Addr(), out.listen(echo).Port()))
	roundTrip(t, kept)
	roundTrip(t, cut)
	udp := g.dialUDP(datagrams)
	roundTrip(t, udp)
	p, err := policy.Parse(policy.DefaultDeny, []string{"allow " + server.String()}, true)
	if err != nil {
		t.Fatal(err)
	}
	n.SetPolicy(true, p)
	roundTrip(t, kept)
	if _, err := cut.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the connection that is forbidden reads %v, want a reset", err)
	}
	before := n.Counters().Refused[policy.ReasonRule]
	if _, err := udp.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the datagram is refused", func() bool { return n.Counters().Refused[policy.ReasonRule] == before+1 })
	n.SetPolicy(false, p)
	if _, err := kept.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("with nat off: %v, want a reset", err)
	}
	eventually(t, "no flow is open", func() bool { return n.Counters().Open == 0 })
}

// A connection that was heard lives on under a policy that allows its name, one
// that nobody heard does not, and one that is for another name is cut.
func TestSetPolicyKnowsNames(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	port := ":" + server.String()[strings.LastIndexByte(server.String(), ':')+1:]
	n, g, _ := ruled(t, out, []string{"allow a.example" + port, "allow b.example" + port}, "a.example", "b.example")
	speak := func(host string) net.Conn {
		conn := g.mustDial(server)
		if _, err := conn.Write([]byte(get(host))); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, len(get(host)))); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	a, b := speak("a.example"), speak("b.example")
	p, err := policy.Parse(policy.DefaultDeny, []string{"allow a.example" + port}, true)
	if err != nil {
		t.Fatal(err)
	}
	n.SetPolicy(true, p)
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("b goes on")
	}
	if _, err := a.Write([]byte(get("a.example"))); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(a, make([]byte, len(get("a.example")))); err != nil {
		t.Errorf("a does not go on: %v", err)
	}
	n.SetPolicy(true, policy.Open())
	unheard := g.mustDial(server)
	roundTrip(t, unheard)
	n.SetPolicy(true, p)
	if _, err := unheard.Read(make([]byte, 1)); err == nil {
		t.Error("what nobody heard goes on")
	}
}

// Learning lets all through and says what it would have refused.
func TestLearning(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	greeter := out.listen(func(conn *net.TCPConn) { _, _ = conn.Write([]byte("220 hello\r\n")); _, _ = io.Copy(io.Discard, conn) })
	z := &zone{hosts: map[string]netip.Addr{"a.example": out.addr}}
	var mu sync.Mutex
	var said []string
	n, g := start(t, Config{
		NAT: true, Policy: &policy.Policy{Learn: true}, DNSUpstream: out.listenUDP(0, z.answer).String(),
		Record: func(f policy.Flow, v policy.Verdict) {
			mu.Lock()
			defer mu.Unlock()
			said = append(said, strings.TrimSpace(string(f.Proto)+" "+string(f.Speech)+" "+f.Name))
		},
	})
	if m := g.askUDP(questionFor("a.example", dnsmessage.TypeA)); len(m.Answers) != 2 {
		t.Fatalf("%+v", m)
	}
	for _, text := range []string{get("a.example"), "hello\n", "QUIT"} {
		if got, err := g.ask(server, text); err != nil || got != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if got, err := g.ask(greeter, ""); err != nil || got != "220 hello\r\n" {
		t.Errorf("who speaks second: %q, %v", got, err)
	}
	want := []string{"dns  a.example.", "tcp http a.example", "tcp other", "tcp other", "tcp other"}
	eventually(t, "all is said", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(said, want)
	})
	if c := n.Counters(); c.WouldRefuse != 5 {
		t.Errorf("%+v", c)
	}
}

// FuzzAnswer gives the readers of answers whatever a server outside may say.
func FuzzAnswer(f *testing.F) {
	z := &zone{hosts: map[string]netip.Addr{"a.example": netip.MustParseAddr("203.0.113.1")}}
	f.Add(z.answer(questionFor("a.example", dnsmessage.TypeA)))
	f.Add(z.answer(questionFor("none.example", dnsmessage.TypeA)))
	q, _ := parseQuery(questionFor("A.example", dnsmessage.TypeA))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if len(addressesIn(answer, "a.example.")) > maxRecords {
			t.Fatal("too many addresses")
		}
		plain, err := q.plainAnswer(answer)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(plain); err != nil || !q.answeredBy(plain, q.header.ID) {
			t.Fatalf("%x: %v", plain, err)
		}
		for _, r := range append(m.Answers, m.Authorities...) {
			if !isPlain(r.Header.Type) {
				t.Fatalf("%v comes in", r)
			}
		}
	})
}
