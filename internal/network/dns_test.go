package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/policy"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers with one TXT record of size bytes in all. By UDP what is
// longer than the query allows is cut short.
type nameServer struct {
	size  int
	rcode dnsmessage.RCode
	asked atomic.Int64
	byTCP atomic.Int64
}

// answer makes the answer to a query of at most limit bytes, or by UDP (limit 0)
// as many as the query allows.
func (s *nameServer) answer(message []byte, limit int) []byte {
	s.asked.Add(1)
	q, _ := parseQuery(message)
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.header.ID, Response: true, RecursionAvailable: true, RCode: s.rcode},
		Questions: []dnsmessage.Question{q.question},
	}
	var text []string
	for left := s.size; left > 0; left -= 250 {
		text = append(text, strings.Repeat("x", min(left, 250)))
	}
	if text != nil {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.TXTResource{TXT: text},
		}}
	}
	if limit == 0 {
		limit = q.limit
	}
	if packed, _ := m.Pack(); len(packed) <= limit {
		return packed
	}
	m.Answers, m.Truncated = nil, true
	packed, _ := m.Pack()
	return packed
}

func (s *nameServer) serveUDP(out *outside) netip.AddrPort {
	return out.listenUDP(0, func(message []byte) []byte { return s.answer(message, 0) })
}

// serveBoth serves UDP and TCP on the same port.
func (s *nameServer) serveBoth(out *outside) netip.AddrPort {
	server := out.listen(func(conn *net.TCPConn) {
		for {
			message, err := readMessage(conn, 1<<16)
			if err != nil {
				return
			}
			s.byTCP.Add(1)
			_, _ = conn.Write(framed(s.answer(message, 1<<16)))
		}
	})
	return out.listenUDP(server.Port(), func(message []byte) []byte { return s.answer(message, 0) })
}

// question makes a query for TXT records; edns, if given, is the size that its
// OPT record allows.
func question(name string, edns ...int) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{ID: 0x1234, RecursionDesired: true},
		Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeTXT, Class: dnsmessage.ClassINET,
		}},
	}
	for _, size := range edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		_ = opt.Header.SetEDNS0(size, 0, false)
		m.Additionals = append(m.Additionals, opt)
	}
	packed, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return packed
}

// gatewayDNS is the guest's name server.
var gatewayDNS = netip.AddrPortFrom(gatewayAddr, dnsPort)

func (g *guest) askUDP(message []byte) dnsmessage.Message {
	g.t.Helper()
	conn := g.dialUDP(gatewayDNS)
	defer conn.Close()
	if _, err := conn.Write(message); err != nil {
		g.t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	count, err := conn.Read(buf)
	if err != nil {
		g.t.Fatal(err)
	}
	return unpack(g.t, buf[:count])
}

func unpack(t testing.TB, message []byte) dnsmessage.Message {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		t.Fatal(err)
	}
	if m.ID != 0x1234 || !m.Response {
		t.Errorf("answer with header %+v", m.Header)
	}
	return m
}

func answerSize(m dnsmessage.Message) (size int) {
	for _, r := range m.Answers {
		for _, text := range r.Body.(*dnsmessage.TXTResource).TXT {
			size += len(text)
		}
	}
	return size
}

func TestNames(t *testing.T) {
	out := newOutside(t)
	server := &nameServer{size: 100}
	n, g := start(t, Config{NAT: true, DNSUpstream: server.serveBoth(out).String()})
	if m := g.askUDP(question("example.org.")); m.RCode != 0 || answerSize(m) != 100 {
		t.Errorf("by UDP: %+v", m)
	}
	conn := g.mustDial(gatewayDNS)
	for range 3 { // one connection carries several
		if _, err := conn.Write(framed(question("example.org."))); err != nil {
			t.Fatal(err)
		}
		message, err := readMessage(conn, 1<<16)
		if err != nil {
			t.Fatal(err)
		}
		if m := unpack(t, message); m.RCode != 0 || answerSize(m) != 100 {
			t.Errorf("by TCP: %+v", m)
		}
	}
	if c := n.Counters(); c.Accepted != 4 || server.asked.Load() != 4 {
		t.Errorf("%+v, the server was asked %d times", c, server.asked.Load())
	}
}

func TestLongAnswers(t *testing.T) {
	out := newOutside(t)
	server := &nameServer{size: 5000}
	_, g := start(t, Config{NAT: true, DNSUpstream: server.serveBoth(out).String()})
	if m := g.askUDP(question("long.example.")); !m.Truncated || len(m.Answers) != 0 {
		t.Errorf("a guest that takes 512 bytes gets %d, truncated %v", answerSize(m), m.Truncated)
	}
	if m := g.askUDP(question("long.example.", 1232)); !m.Truncated || len(m.Additionals) != 1 {
		t.Errorf("a guest that takes 1232 bytes gets %d, truncated %v, %v", answerSize(m), m.Truncated, m.Additionals)
	}
	if m := g.askUDP(question("long.example.", 8192)); m.Truncated || answerSize(m) != 5000 {
		t.Errorf("a guest that takes 8192 bytes gets %d, truncated %v", answerSize(m), m.Truncated)
	}
	conn := g.mustDial(gatewayDNS)
	if _, err := conn.Write(framed(question("long.example."))); err != nil {
		t.Fatal(err)
	}
	message, err := readMessage(conn, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if m := unpack(t, message); m.Truncated || answerSize(m) != 5000 {
		t.Errorf("by TCP the guest gets %d, truncated %v", answerSize(m), m.Truncated)
	}
	if server.byTCP.Load() == 0 {
		t.Error("the server was not asked by TCP")
	}
}

// The server cuts short and has no TCP: the guest gets what there is.
func TestTruncatedWithoutTCP(t *testing.T) {
	out := newOutside(t)
	server := &nameServer{size: 5000}
	_, g := start(t, Config{NAT: true, DNSUpstream: server.serveUDP(out).String()})
	if m := g.askUDP(question("long.example.")); !m.Truncated {
		t.Errorf("%+v", m)
	}
}

func TestNoNameServer(t *testing.T) {
	n, g := start(t, Config{NAT: true, DNSUpstream: "127.0.0.1:9"}) // nobody listens
	if m := g.askUDP(question("example.org.")); m.RCode != dnsmessage.RCodeServerFailure || len(m.Questions) != 1 {
		t.Errorf("a server that refuses: %+v", m)
	}
	n.names = &resolver{path: emptyFile(t), buffers: &n.buffers}
	if m := g.askUDP(question("example.org.", 1232)); m.RCode != dnsmessage.RCodeServerFailure || len(m.Additionals) != 1 {
		t.Errorf("no server: %+v", m)
	}
	if c := n.Counters(); c.Failed != 2 {
		t.Errorf("%+v", c)
	}
}

func emptyFile(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNamesWithoutNAT(t *testing.T) {
	out := newOutside(t)
	server := &nameServer{size: 100}
	n, g := start(t, Config{DNSUpstream: server.serveUDP(out).String()})
	if m := g.askUDP(question("example.org.")); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("%+v", m)
	}
	if c := n.Counters(); c.Refused[policy.ReasonNAT] != 1 || server.asked.Load() != 0 {
		t.Errorf("%+v, the server was asked %d times", c, server.asked.Load())
	}
}

func TestNextServer(t *testing.T) {
	out := newOutside(t)
	failing := &nameServer{rcode: dnsmessage.RCodeServerFailure}
	good := &nameServer{size: 10}
	n, g := start(t, Config{NAT: true})
	n.names = &resolver{buffers: &n.buffers, fixed: []netip.AddrPort{
		netip.MustParseAddrPort("127.0.0.1:9"), failing.serveUDP(out), good.serveUDP(out),
	}}
	if m := g.askUDP(question("example.org.")); answerSize(m) != 10 {
		t.Errorf("%+v", m)
	}
	n.names = &resolver{buffers: &n.buffers, fixed: n.names.fixed[:2]}
	if m := g.askUDP(question("example.org.")); m.RCode != dnsmessage.RCodeServerFailure {
		t.Errorf("when all fail: %+v", m)
	}
	missing := &nameServer{rcode: dnsmessage.RCodeNameError}
	n.names = &resolver{buffers: &n.buffers, fixed: []netip.AddrPort{missing.serveUDP(out), good.serveUDP(out)}}
	if m := g.askUDP(question("example.org.")); m.RCode != dnsmessage.RCodeNameError {
		t.Errorf("a name that does not exist: %+v", m)
	}
}

// An answer to another question is not one to this.
func TestForgedAnswer(t *testing.T) {
	q, _ := parseQuery(question("example.org."))
	server := &nameServer{size: 10}
	good := server.answer(q.message, 0)
	if !q.answeredBy(good, 0x1234) {
		t.Error("the right answer is not taken")
	}
	other := server.answer(question("example.com."), 0)
	isQuery := bytes.Clone(good)
	isQuery[2] &^= 0x80
	for what, message := range map[string][]byte{
		"another name": other, "a query": isQuery, "short": good[:11], "nothing": nil,
	} {
		if q.answeredBy(message, 0x1234) {
			t.Errorf("%s is taken for the answer", what)
		}
	}
	if q.answeredBy(good, 0x4321) {
		t.Error("another ID is taken")
	}
}

func TestBadQueries(t *testing.T) {
	out := newOutside(t)
	server := &nameServer{size: 10}
	n, g := start(t, Config{NAT: true, DNSUpstream: server.serveUDP(out).String()})
	notify := question("example.org.")
	notify[2] |= 4 << 3
	if m := g.askUDP(notify); m.RCode != dnsmessage.RCodeNotImplemented {
		t.Errorf("a notify: %+v", m)
	}
	two := question("example.org.")
	binary.BigEndian.PutUint16(two[4:], 2)
	if m := g.askUDP(two); m.RCode != dnsmessage.RCodeFormatError {
		t.Errorf("two questions: %+v", m)
	}
	for _, message := range [][]byte{nil, {1}, make([]byte, maxQuery+1), {0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if answer := n.answerDNS(message, true); answer != nil && len(message) < 12 {
			t.Errorf("%d bytes are answered", len(message))
		}
		if _, err := g.dialUDP(gatewayDNS).Write(message); err != nil {
			t.Fatal(err)
		}
	}
	conn := g.mustDial(gatewayDNS)
	if _, err := conn.Write([]byte{0xff, 0xff}); err != nil { // longer than any query
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a giant query by TCP: %v, want the connection closed", err)
	}
	if m := g.askUDP(question("example.org.")); answerSize(m) != 10 {
		t.Errorf("after all that: %+v", m)
	}
}

func TestResolvConf(t *testing.T) {
	path := emptyFile(t)
	r := &resolver{path: path}
	check := func(want ...string) {
		t.Helper()
		servers, err := r.servers()
		var got []string
		for _, s := range servers {
			got = append(got, s.String())
		}
		if err != nil || strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("servers %v, %v, want %v", got, err, want)
		}
	}
	check()
	write := func(text string) {
		t.Helper()
		temp := path + ".new"
		if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temp, path); err != nil {
			t.Fatal(err)
		}
	}
	write("# comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver nonsense\n nameserver fe80::1%eth0 # x\nnameserver\nnameserver 9.9.9.9\nnameserver 8.8.8.8\n")
	check("127.0.0.53:53", "[fe80::1%eth0]:53", "9.9.9.9:53")
	check("127.0.0.53:53", "[fe80::1%eth0]:53", "9.9.9.9:53")
	write("nameserver 1.1.1.1\n")
	check("1.1.1.1:53")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := r.servers(); err == nil {
		t.Error("no file is no error")
	}
	if got := parseResolvConf(strings.NewReader(strings.Repeat("x", 1<<20))); got != nil {
		t.Errorf("a long line gives %v", got)
	}
}

// Queries beyond the bound are dropped, not queued.
func TestQueryFlood(t *testing.T) {
	out := newOutside(t)
	release := make(chan struct{})
	server := &nameServer{size: 10}
	upstream := out.listenUDP(0, func(message []byte) []byte {
		<-release
		return server.answer(message, 0)
	})
	n := newNet(t, Config{NAT: true, DNSUpstream: upstream.String()})
	w := newWire(t, n)
	for range maxQueries + 50 {
		w.send(udpPacket(gatewayDNS, question("example.org.")))
	}
	eventually(t, "the rest is dropped", func() bool { return n.Counters().Refused[policy.ReasonLimit] == 50 })
	close(release)
	kind, packet := w.next()
	if !bytes.Contains(packet, []byte("xxxxxxxxxx")) {
		t.Errorf("the guest gets %v %x", kind, packet)
	}
}

func TestSilentServer(t *testing.T) {
	out := newOutside(t)
	silent := out.listenUDP(0, func([]byte) []byte { return nil })
	r := &resolver{buffers: new(buffers), fixed: []netip.AddrPort{silent}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	q, _ := parseQuery(question("example.org."))
	if answer, err := r.exchange(ctx, q); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%x, %v", answer, err)
	}
}
