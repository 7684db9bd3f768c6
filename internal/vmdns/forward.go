package vmdns

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
)

const (
	// askTime bounds the wait for one server, and maxServers how many are asked.
	askTime    = 2 * time.Second
	maxServers = 3
)

// forward passes a question on to the host's other name servers, one after the
// other. Who they are is looked up each time: it may have changed.
func (s *Server) forward(question *dns.Msg, udp bool) *dns.Msg {
	servers := s.upstreams()
	if len(servers) == 0 {
		return new(dns.Msg).SetRcode(question, dns.RcodeRefused)
	}
	return s.ask(question, udp, servers)
}

// ask asks the servers until one answers. There is an answer in any case.
func (s *Server) ask(question *dns.Msg, udp bool, servers []string) *dns.Msg {
	failed := new(dns.Msg).SetRcode(question, dns.RcodeServerFailure)
	select {
	case s.forwards <- struct{}{}:
		defer func() { <-s.forwards }()
	default:
		return failed
	}
	client := &dns.Client{Net: "tcp", Timeout: askTime}
	if udp {
		client.Net, client.UDPSize = "udp", maxPacket
	}
	asked := question.Copy()
	for _, server := range servers {
		asked.Id = dns.Id()
		answer, _, err := client.Exchange(asked, server)
		if err != nil || !slices.Equal(answer.Question, question.Question) {
			s.Log.Debug("a name server does not answer", "server", server, "error", err)
			continue
		}
		answer.Id = question.Id
		return answer
	}
	return failed
}

// upstreams are the servers that other names are asked of: none, unless the host
// asks this one first and relies on it for them. Without that, passing on could go
// round in circles.
func (s *Server) upstreams() []string {
	if s.ResolvConf == "" || s.Address.Port() != 53 {
		return nil
	}
	config, err := dns.ClientConfigFromFile(s.ResolvConf)
	if err != nil {
		s.Log.Debug("the host's name servers are not known", "error", err)
		return nil
	}
	return others(config, s.Address.Addr())
}

func others(config *dns.ClientConfig, us netip.Addr) (list []string) {
	asks := false
	for _, server := range config.Servers {
		switch addr, err := netip.ParseAddr(server); {
		case err != nil:
		case addr == us:
			asks = true
		case len(list) < maxServers:
			list = append(list, net.JoinHostPort(server, strconv.Itoa(53)))
		}
	}
	if !asks {
		return nil
	}
	return list
}
