package network

import (
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/banger-dev/banger/internal/policy"
	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	dnsPort = 53
	// maxQueries bounds the queries under way at once, maxQueryConns the
	// connections that carry some, maxQuery the size of one in bytes.
	maxQueries    = 512
	maxQueryConns = 32
	maxQuery      = 4 << 10
	// plainLimit is what an answer by UDP may have, in bytes, unless the query
	// says more (EDNS).
	plainLimit = 512
	// queryLimit bounds one query in all. It is less than the five seconds
	// after which resolvers ask again.
	queryLimit = 4500 * time.Millisecond
	// queryConnIdle is how long a connection may wait for its next query.
	queryConnIdle   = 10 * time.Second
	queryConnBuffer = 64 << 10
)

// queryUDP answers a datagram to the gateway's name server. It does not block:
// when there are too many queries it drops this one, and the guest asks again.
func (n *Network) queryUDP(port uint16, payload []byte) {
	if len(payload) > maxQuery || !n.begin() {
		return
	}
	select {
	case n.queries <- struct{}{}:
	default:
		n.counters.refuse(policy.ReasonLimit)
		n.work.Done()
		return
	}
	query := slices.Clone(payload) // the frame is gone when this returns
	go func() {
		defer n.work.Done()
		defer func() { <-n.queries }()
		if answer := n.answerDNS(query, true); answer != nil {
			n.sendUDP(datagramKey{port: port, dst: netip.AddrPortFrom(gatewayAddr, dnsPort)}, answer)
		}
	}()
}

// acceptDNS serves a connection to the gateway's name server until the guest
// closes it, lets it idle, or sends what is no query.
func (n *Network) acceptDNS(request *tcp.ForwarderRequest) {
	select {
	case n.queryConns <- struct{}{}:
	default:
		n.counters.refuse(policy.ReasonLimit)
		request.Complete(true)
		return
	}
	defer func() { <-n.queryConns }()
	inside, err := establish(request, queryConnBuffer)
	if err != nil {
		return
	}
	conn := gonet.NewTCPConn(inside.queue, inside.Endpoint)
	defer conn.Close()
	for n.ctx.Err() == nil {
		if err := n.serveQuery(conn); err != nil {
			return
		}
	}
}

// serveQuery answers the next query of a connection: each message comes after
// its length in two bytes.
func (n *Network) serveQuery(conn *gonet.TCPConn) error {
	if err := conn.SetDeadline(time.Now().Add(queryConnIdle)); err != nil {
		return err
	}
	query, err := readMessage(conn, maxQuery)
	if err != nil {
		return err
	}
	answer := n.answerDNS(query, false)
	if answer == nil {
		return io.ErrUnexpectedEOF
	}
	if err := conn.SetDeadline(time.Now().Add(queryConnIdle)); err != nil {
		return err
	}
	_, err = conn.Write(framed(answer))
	return err
}

func readMessage(r io.Reader, limit int) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(length[:]))
	if size > limit {
		return nil, io.ErrShortBuffer
	}
	message := make([]byte, size)
	_, err := io.ReadFull(r, message)
	return message, err
}

func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message))), message...)
}

// answerDNS returns the answer to a query, or nil for what deserves none. By
// UDP an answer that is too long for the guest is replaced by one that tells it
// to ask again by TCP.
func (n *Network) answerDNS(message []byte, udp bool) []byte {
	query, rcode := parseQuery(message)
	if query == nil {
		return nil
	}
	if rcode != dnsmessage.RCodeSuccess {
		return query.reply(rcode, false)
	}
	flow := policy.Flow{Proto: policy.ProtoDNS, Name: query.question.Name.String(), Type: uint16(query.question.Type)}
	verdict := n.policy.Decide(flow)
	if !verdict.Allow {
		return n.refuseQuery(query, flow, verdict)
	}
	n.counters.accepted.Add(1)
	answer := n.askOutside(query)
	if len(answer) > 0 {
		found := addressesIn(answer, query.question.Name.String())
		n.remember(flow.Name, found)
		if len(found) > 0 { // to learn only from names that there are
			n.note(flow, verdict)
		}
	}
	if udp && len(answer) > query.limit {
		return query.reply(dnsmessage.RCodeSuccess, true)
	}
	return answer
}

// refuseQuery is the answer to what may not be asked: no such name, or, where the
// name is allowed and the kind of record is not, no such record.
func (n *Network) refuseQuery(q *query, flow policy.Flow, verdict policy.Verdict) []byte {
	if verdict.Reason != policy.ReasonRecord {
		n.note(flow, verdict)
		return q.reply(dnsmessage.RCodeNameError, false)
	}
	if q.question.Type == typeHTTPS || q.question.Type == typeSVCB {
		n.counters.refuse(verdict.Reason) // every browser asks: no news
	} else {
		n.note(flow, verdict)
	}
	return q.reply(dnsmessage.RCodeSuccess, false)
}

// askOutside puts a query to the name servers outside, in a plain form where the
// policy wants that, and returns the answer, which may say that there is none.
func (n *Network) askOutside(q *query) []byte {
	ctx, cancel := context.WithTimeout(n.ctx, queryLimit)
	defer cancel()
	asked, simple := q, n.policy.PlainLookups()
	var err error
	if simple {
		asked, err = q.plain()
	}
	var answer []byte
	if err == nil {
		answer, err = n.names.exchange(ctx, asked)
	}
	if err == nil && simple {
		answer, err = q.plainAnswer(answer)
	}
	if err == nil {
		return answer
	}
	if n.ctx.Err() == nil {
		n.counters.failed.Add(1)
		n.log.Debug("name server failed", "name", q.question.Name, "err", err)
	}
	return q.reply(dnsmessage.RCodeServerFailure, false)
}

// remember has the addresses of a name count as the name's for a while.
func (n *Network) remember(name string, found []found) {
	if len(found) == 0 {
		return
	}
	n.answered.Lock()
	defer n.answered.Unlock()
	now := time.Now()
	for _, f := range found {
		n.answers.Add(name, f.addr, f.ttl, now)
	}
}

// query is a parsed query of the guest.
type query struct {
	message  []byte // as it came; its first two bytes are the ID
	header   dnsmessage.Header
	question dnsmessage.Question
	asked    bool // question is there
	edns     bool
	limit    int // the longest answer by UDP that the guest takes, in bytes
}

// parseQuery reads what must be known of a query. It is nil for what is none
// (too short, or an answer); a code other than success says how to refuse it.
// The rest of the message goes to the name server as it is.
func parseQuery(message []byte) (*query, dnsmessage.RCode) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response {
		return nil, 0
	}
	q := &query{message: message, header: h, limit: plainLimit}
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 {
		return q, dnsmessage.RCodeFormatError
	}
	q.question, q.asked = questions[0], true
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, dnsmessage.RCodeFormatError
	}
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone {
			return q, dnsmessage.RCodeSuccess
		}
		if err != nil {
			return q, dnsmessage.RCodeFormatError
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns = true
			q.limit = min(max(int(h.Class), plainLimit), maxDatagram)
		}
		if p.SkipAdditional() != nil {
			return q, dnsmessage.RCodeFormatError
		}
	}
}

// reply makes an answer without records.
func (q *query) reply(rcode dnsmessage.RCode, truncated bool) []byte {
	m := dnsmessage.Message{Header: dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Truncated: truncated,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: rcode,
	}}
	if q.asked {
		m.Questions = []dnsmessage.Question{q.question}
	}
	if q.edns {
		opt := dnsmessage.Resource{Body: &dnsmessage.OPTResource{}}
		if err := opt.Header.SetEDNS0(maxQuery, rcode, false); err != nil {
			return nil
		}
		m.Additionals = []dnsmessage.Resource{opt}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}
