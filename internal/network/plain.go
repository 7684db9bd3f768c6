package network

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Kinds of records that tell a client how else to reach a host (RFC 9460).
const (
	typeSVCB  dnsmessage.Type = 64
	typeHTTPS dnsmessage.Type = 65
)

const (
	// plainSize is the size of answers by UDP that a plain query allows, in bytes
	// (the one that every path takes).
	plainSize = 1232
	// maxRecords bounds the records that are taken of one answer.
	maxRecords = 64
)

// plain is the query as it is put to the servers outside where lookups are part of
// the policy: the name in lower case, no option, no other bit than that recursion
// is desired. So a guest can say no more with it than which name it asks for.
func (q *query) plain() (*query, error) {
	name, err := dnsmessage.NewName(strings.ToLower(q.question.Name.String()))
	if err != nil {
		return nil, err
	}
	plain := &query{
		header:   dnsmessage.Header{ID: q.header.ID, RecursionDesired: true},
		question: dnsmessage.Question{Name: name, Type: q.question.Type, Class: dnsmessage.ClassINET},
		asked:    true, limit: plainSize,
	}
	opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
	if err := opt.Header.SetEDNS0(plainSize, dnsmessage.RCodeSuccess, false); err != nil {
		return nil, err
	}
	m := dnsmessage.Message{
		Header: plain.header, Questions: []dnsmessage.Question{plain.question}, Additionals: []dnsmessage.Resource{opt},
	}
	plain.message, err = m.Pack()
	return plain, err
}

// plainAnswer makes the answer to q of what a server outside said: its code and its
// records of the plain kinds, under the question that the guest asked.
func (q *query) plainAnswer(answer []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: q.header.ID, Response: true, RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
		Truncated: h.Truncated, RCode: h.RCode,
	}, Questions: []dnsmessage.Question{q.question}}
	if err := p.SkipAllQuestions(); err != nil {
		return nil, err
	}
	if m.Answers, err = plainRecords(p.AnswerHeader, p.Answer, p.SkipAnswer); err != nil {
		return nil, err
	}
	if m.Authorities, err = plainRecords(p.AuthorityHeader, p.Authority, p.SkipAuthority); err != nil {
		return nil, err
	}
	m.Authorities = onlySOA(m.Authorities)
	if q.edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(maxQuery, h.RCode, false); err != nil {
			return nil, err
		}
		m.Additionals = []dnsmessage.Resource{opt}
	}
	return m.Pack()
}

// plainRecords reads the records of one section that are of a plain kind.
func plainRecords(next func() (dnsmessage.ResourceHeader, error), read func() (dnsmessage.Resource, error), skip func() error) ([]dnsmessage.Resource, error) {
	var kept []dnsmessage.Resource
	for {
		h, err := next()
		if err == dnsmessage.ErrSectionDone || err == nil && len(kept) >= maxRecords {
			return kept, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Class != dnsmessage.ClassINET || !isPlain(h.Type) {
			if err := skip(); err != nil {
				return nil, err
			}
			continue
		}
		record, err := read()
		if err != nil {
			return nil, err
		}
		kept = append(kept, record)
	}
}

func isPlain(kind dnsmessage.Type) bool {
	switch kind {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypeCNAME, dnsmessage.TypeMX, dnsmessage.TypeNS,
		dnsmessage.TypePTR, dnsmessage.TypeSOA, dnsmessage.TypeSRV:
		return true
	}
	return false
}

// onlySOA keeps what says for how long there is no such name.
func onlySOA(records []dnsmessage.Resource) []dnsmessage.Resource {
	for _, r := range records {
		if r.Header.Type == dnsmessage.TypeSOA {
			return []dnsmessage.Resource{r}
		}
	}
	return nil
}

// found is an address in an answer.
type found struct {
	addr netip.Addr
	ttl  time.Duration
}

// addressesIn reads the addresses that an answer gives to a name, by itself or as
// an alias. What else it holds does not count, and nothing after what cannot be
// read.
func addressesIn(answer []byte, name string) []found {
	var p dnsmessage.Parser
	if _, err := p.Start(answer); err != nil || p.SkipAllQuestions() != nil {
		return nil
	}
	var all []found
	ttls := map[string]uint32{strings.ToLower(name): 1<<31 - 1} // of the aliases so far
	for range maxRecords {
		h, err := p.AnswerHeader()
		if err != nil {
			return all
		}
		ttl, ours := ttls[strings.ToLower(h.Name.String())]
		if !ours || h.Class != dnsmessage.ClassINET {
			h.Type = 0
		}
		ttl = min(ttl, h.TTL)
		addr, alias, err := target(&p, h.Type)
		if err != nil {
			return all
		}
		if alias != "" {
			ttls[alias] = ttl
		}
		if addr.IsValid() {
			all = append(all, found{addr, time.Duration(ttl) * time.Second})
		}
	}
	return all
}

// target reads the next record of an answer, which is of a kind: an address, or the
// name, in lower case, that it is an alias of. Other kinds give neither.
func target(p *dnsmessage.Parser, kind dnsmessage.Type) (addr netip.Addr, alias string, err error) {
	switch kind {
	case dnsmessage.TypeA:
		r, err := p.AResource()
		return netip.AddrFrom4(r.A), "", err
	case dnsmessage.TypeAAAA:
		r, err := p.AAAAResource()
		return netip.AddrFrom16(r.AAAA), "", err
	case dnsmessage.TypeCNAME:
		r, err := p.CNAMEResource()
		return netip.Addr{}, strings.ToLower(r.CNAME.String()), err
	}
	return netip.Addr{}, "", p.SkipAnswer()
}
