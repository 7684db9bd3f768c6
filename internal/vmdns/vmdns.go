// Package vmdns answers the names of VMs: NAME.vm is the VM's own address on this
// host. It is a name server for programs of this host only. Where
// /etc/resolv.conf names it, it also passes on questions about all other names.
package vmdns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	banger "github.com/banger-dev/banger"
)

const (
	// maxConns bounds the connections by TCP, and maxForwards the questions that
	// are passed on at once.
	maxConns    = 64
	maxForwards = 64
	// idle bounds the wait for a question, and for its answer to be taken.
	idle = 5 * time.Second
	// stopTime bounds the wait for answers under way when the server ends.
	stopTime = 2 * time.Second
	// ttl is how long an answer may be kept, in seconds: a name may be another
	// VM's soon.
	ttl = 1
)

// ProbeName is always answered, with the server's own address: by it doctor finds
// out whether this host asks the server.
const ProbeName = "doctor.banger" + banger.NameSuffix

// Options are what a Server needs.
type Options struct {
	// Address is where to listen, by UDP and TCP.
	Address netip.AddrPort
	// Lookup finds the address of a VM by its name.
	Lookup func(name string) (netip.Addr, bool)
	// ResolvConf is the file that says who answers other names: its servers, if
	// Address is one of them. Empty, or not so: they are refused.
	ResolvConf string
	Log        *slog.Logger
}

// Server is a name server that runs.
type Server struct {
	Options
	servers  []*dns.Server
	running  sync.WaitGroup
	forwards chan struct{}
}

// Listen starts a server. The caller must Close it.
func Listen(o Options) (*Server, error) {
	packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(o.Address))
	if err != nil {
		return nil, err
	}
	o.Address = packets.LocalAddr().(*net.UDPAddr).AddrPort()
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(o.Address))
	if err != nil {
		packets.Close()
		return nil, err
	}
	s := &Server{Options: o, forwards: make(chan struct{}, maxForwards)}
	s.start(&dns.Server{PacketConn: packets})
	s.start(&dns.Server{Listener: netutil.LimitListener(listener, maxConns), IdleTimeout: func() time.Duration { return idle }})
	return s, nil
}

// start serves until Close, and returns when it does.
func (s *Server) start(server *dns.Server) {
	started := make(chan struct{})
	server.Handler = dns.HandlerFunc(s.serve)
	server.ReadTimeout, server.WriteTimeout = idle, idle
	server.NotifyStartedFunc = func() { close(started) }
	s.servers = append(s.servers, server)
	s.running.Go(func() {
		if err := server.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Log.Error("the names of VMs are not answered any more", "error", err)
		}
	})
	<-started
}

// Close ends the server.
func (s *Server) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	for _, server := range s.servers {
		if err := server.ShutdownContext(ctx); err != nil {
			s.Log.Debug("a name server does not end in order", "error", err)
		}
	}
	s.running.Wait()
}

func (s *Server) serve(w dns.ResponseWriter, question *dns.Msg) {
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if err := w.WriteMsg(s.respond(question, udp)); err != nil {
		s.Log.Debug("an answer is not taken", "error", err)
	}
}

// respond answers a message with one question in it, which dns.Server sees to.
func (s *Server) respond(question *dns.Msg, udp bool) *dns.Msg {
	var answer *dns.Msg
	switch q := question.Question[0]; {
	case dns.IsSubDomain(zone, q.Name):
		answer = s.answer(question)
	default:
		answer = s.forward(question, udp)
	}
	size := dns.MinMsgSize
	if opt := question.IsEdns0(); opt != nil {
		size = max(size, int(opt.UDPSize()))
		if answer.IsEdns0() == nil {
			answer.SetEdns0(maxPacket, false)
		}
	}
	if udp {
		answer.Truncate(min(size, maxPacket))
	}
	return answer
}

// zone is the domain of VMs.
const zone = "vm."

// maxPacket is what an answer by UDP has at most, in bytes.
const maxPacket = 4096

// answer answers for the domain of VMs. A VM has an IPv4 address alone: of any
// other kind a name that there is has no records, which is not the same as that
// there is no such name.
func (s *Server) answer(question *dns.Msg) *dns.Msg {
	q := question.Question[0]
	answer := new(dns.Msg).SetReply(question)
	answer.Authoritative, answer.RecursionAvailable = true, true
	addr, known := s.find(strings.ToLower(q.Name))
	switch {
	case q.Qclass != dns.ClassINET:
		answer.Rcode = dns.RcodeRefused
		return answer
	case known && addr.IsValid() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: addr.AsSlice(),
		}}
		return answer
	case !known:
		answer.Rcode = dns.RcodeNameError
	}
	// Without this record who keeps answers would keep a "no" for as long as he likes.
	answer.Ns = []dns.RR{&dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: "banger." + zone, Mbox: "banger." + zone,
		Serial: 1, Refresh: 1, Retry: 1, Expire: 1,
	}}
	return answer
}

// find returns the address of a name, or that it is known and has none.
func (s *Server) find(name string) (netip.Addr, bool) {
	switch name {
	case zone:
		return netip.Addr{}, true
	case ProbeName + ".":
		return s.Address.Addr(), true
	}
	addr, ok := s.Lookup(strings.TrimSuffix(name, "."+zone))
	return addr, ok && addr.Is4()
}
