package vmdns

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func testServer(t testing.TB) *Server {
	t.Helper()
	s, err := Listen(Options{
		Address: netip.MustParseAddrPort("127.77.3.53:0"), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Lookup: lookup,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func lookup(name string) (netip.Addr, bool) {
	if name == "dev" {
		return netip.MustParseAddr("127.77.4.1"), true
	}
	return netip.Addr{}, name == "unaddressed"
}

func TestAnswers(t *testing.T) {
	s := testServer(t)
	for _, network := range []string{"udp", "tcp"} {
		client := &dns.Client{Net: network, Timeout: 10 * time.Second}
		for _, tc := range []struct {
			name  string
			kind  uint16
			rcode int
			want  string
		}{
			{"dev.vm.", dns.TypeA, dns.RcodeSuccess, "127.77.4.1"},
			{"DeV.Vm.", dns.TypeA, dns.RcodeSuccess, "127.77.4.1"},
			{"dev.vm.", dns.TypeANY, dns.RcodeSuccess, "127.77.4.1"},
			{"dev.vm.", dns.TypeAAAA, dns.RcodeSuccess, ""},
			{"dev.vm.", dns.TypeTXT, dns.RcodeSuccess, ""},
			{"none.vm.", dns.TypeA, dns.RcodeNameError, ""},
			{"unaddressed.vm.", dns.TypeA, dns.RcodeNameError, ""},
			{"sub.dev.vm.", dns.TypeA, dns.RcodeNameError, ""},
			{"vm.", dns.TypeSOA, dns.RcodeSuccess, ""},
			{ProbeName + ".", dns.TypeA, dns.RcodeSuccess, "127.77.3.53"},
			{"example.org.", dns.TypeA, dns.RcodeRefused, ""},
			{"xvm.", dns.TypeA, dns.RcodeRefused, ""},
		} {
			question := new(dns.Msg).SetQuestion(tc.name, tc.kind).SetEdns0(1232, false)
			answer, _, err := client.Exchange(question, s.Address.String())
			if err != nil || answer.Rcode != tc.rcode || answer.IsEdns0() == nil {
				t.Errorf("%s %s: %v, %v", network, tc.name, answer, err)
				continue
			}
			var got []string
			for _, rr := range answer.Answer {
				got = append(got, rr.(*dns.A).A.String())
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("%s %s: %v, want %s", network, tc.name, got, tc.want)
			}
			if ours := strings.HasSuffix(strings.ToLower(tc.name), ".vm.") || tc.name == "vm."; ours && tc.want == "" && len(answer.Ns) != 1 {
				t.Errorf("%s: a no without an end: %v", tc.name, answer)
			}
		}
	}
}

// TestGarbage: what is no question does not keep the next one from its answer.
func TestGarbage(t *testing.T) {
	s := testServer(t)
	conn, err := net.Dial("udp", s.Address.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	for _, junk := range []string{"", "x", strings.Repeat("\xff", 600)} {
		conn.Write([]byte(junk))
	}
	packed, _ := new(dns.Msg).SetQuestion("dev.vm.", dns.TypeA).Pack()
	conn.Write(packed)
	buf := make([]byte, 600)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		answer := new(dns.Msg)
		if answer.Unpack(buf[:n]) == nil && len(answer.Answer) == 1 {
			return
		}
	}
}

func TestUpstreams(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	for text, want := range map[string][]string{
		"nameserver 127.77.0.53\nnameserver 10.0.0.1\nnameserver fe80::1\n": {"10.0.0.1:53", "[fe80::1]:53"},
		"nameserver 10.0.0.1\n":    nil,
		"nameserver 127.77.0.53\n": nil,
		"":                         nil,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s := &Server{Options: Options{Address: netip.MustParseAddrPort("127.77.0.53:53"), ResolvConf: path, Log: slog.New(slog.DiscardHandler)}}
		if got := s.upstreams(); !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
		s.Address = netip.MustParseAddrPort("127.77.0.53:5377")
		if got := s.upstreams(); got != nil {
			t.Errorf("at a port that resolv.conf cannot name: %v", got)
		}
	}
}

// TestForwards: other names are passed on, by the protocol that they came by, and
// an answer to another question is none.
func TestForwards(t *testing.T) {
	up := &dns.Server{PacketConn: packetConn(t), Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "twisted.org." {
			answer.Question[0].Name = "other.org."
		}
		for range 60 {
			answer.Answer = append(answer.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: answer.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 9}, A: net.IPv4(192, 0, 2, 1),
			})
		}
		w.WriteMsg(answer)
	})}
	go up.ActivateAndServe()
	t.Cleanup(func() { up.Shutdown() })
	s := &Server{Options: Options{Log: slog.New(slog.DiscardHandler), Lookup: lookup}, forwards: make(chan struct{}, 1)}
	server := up.PacketConn.LocalAddr().String()

	question := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	question.SetEdns0(4096, false)
	answer := s.ask(question, true, []string{server})
	if answer.Id != question.Id || len(answer.Answer) != 60 {
		t.Errorf("%v", answer)
	}
	if answer := s.ask(new(dns.Msg).SetQuestion("twisted.org.", dns.TypeA), true, []string{server}); answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("an answer to another question: %v", answer)
	}
	s.forwards <- struct{}{}
	if answer := s.ask(question, true, []string{server}); answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("one too many: %v", answer)
	}
}

func packetConn(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// FuzzRespond: whatever the question, the answer is one to it, small enough, and
// can be sent.
func FuzzRespond(f *testing.F) {
	for _, name := range []string{"dev.vm.", "none.vm.", "example.org.", "\\.vm.", "."} {
		packed, err := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(100, true).Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, true)
	}
	s := &Server{Options: Options{Log: slog.New(slog.DiscardHandler), Lookup: lookup}}
	f.Fuzz(func(t *testing.T, data []byte, udp bool) {
		question := new(dns.Msg)
		if question.Unpack(data) != nil || len(question.Question) != 1 || question.Response {
			return
		}
		answer := s.respond(question, udp)
		packed, err := answer.Pack()
		if err != nil {
			t.Fatalf("%v: %v", answer, err)
		}
		if !answer.Response || answer.Id != question.Id || len(answer.Answer) > 1 || udp && len(packed) > maxPacket {
			t.Errorf("to %v\nanswer %v", question, answer)
		}
		if len(answer.Answer) == 1 && !strings.EqualFold(question.Question[0].Name, "dev.vm.") && !strings.EqualFold(question.Question[0].Name, ProbeName+".") {
			t.Errorf("an address for %q", question.Question[0].Name)
		}
	})
}
