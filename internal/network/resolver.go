package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"golang.org/x/net/dns/dnsmessage"
)

const (
	resolvConf = "/etc/resolv.conf"
	// maxResolvConf bounds what is read of it, in bytes.
	maxResolvConf = 64 << 10
	// maxServers is how many name servers are asked, as in resolv.conf(5).
	maxServers = 3
	// attemptLimit bounds one question to one name server.
	attemptLimit = 1500 * time.Millisecond
)

// resolver asks the name servers outside.
type resolver struct {
	fixed   []netip.AddrPort // from the config
	path    string           // of resolv.conf, when fixed is empty
	buffers *buffers

	mu    sync.Mutex
	stat  os.FileInfo // of path when it was read
	known []netip.AddrPort
}

func newResolver(upstream string, buffers *buffers) (*resolver, error) {
	if upstream == "" {
		return &resolver{path: resolvConf, buffers: buffers}, nil
	}
	addr, err := netip.ParseAddrPort(upstream)
	if err != nil || addr.Port() == 0 {
		return nil, banger.Errorf(banger.CodeUsage, "name server %q is not an address with a port", upstream).
			WithHint(`dns_upstream = "192.0.2.53:53"`)
	}
	return &resolver{fixed: []netip.AddrPort{addr}, buffers: buffers}, nil
}

// servers returns the name servers of this moment.
func (r *resolver) servers() ([]netip.AddrPort, error) {
	if r.fixed != nil {
		return r.fixed, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	stat, err := os.Stat(r.path)
	if err != nil {
		return nil, err
	}
	if old := r.stat; old != nil && os.SameFile(old, stat) && old.ModTime().Equal(stat.ModTime()) && old.Size() == stat.Size() {
		return r.known, nil
	}
	file, err := os.Open(r.path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r.known, r.stat = parseResolvConf(io.LimitReader(file, maxResolvConf)), stat
	return r.known, nil
}

func parseResolvConf(r io.Reader) []netip.AddrPort {
	var servers []netip.AddrPort
	for lines := bufio.NewScanner(r); lines.Scan() && len(servers) < maxServers; {
		words := strings.Fields(lines.Text())
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	return servers
}

var errNoNameServer = errors.New("no name server is configured")

// exchange returns the first good answer, under the query's own ID. A server
// that fails or will not answer gives way to the next; after the last they are
// all asked once more, except those that refuse connections. When all that came
// is a failure, that is the answer.
func (r *resolver) exchange(ctx context.Context, q *query) ([]byte, error) {
	servers, err := r.servers()
	if err != nil {
		return nil, err
	}
	servers = slices.Clone(servers)
	lastErr := errNoNameServer
	var poor []byte
	for round := 0; round < 2 && poor == nil; round++ {
		for i := 0; i < len(servers); {
			answer, err := r.ask(ctx, servers[i], q)
			switch {
			case err == nil && !gaveUp(answer):
				return answer, nil
			case err == nil:
				poor = answer
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case errors.Is(err, syscall.ECONNREFUSED):
				lastErr = err
				servers = slices.Delete(servers, i, i+1)
				continue
			default:
				lastErr = err
			}
			i++
		}
	}
	if poor != nil {
		return poor, nil
	}
	return nil, lastErr
}

// gaveUp reports whether another server may know more.
func gaveUp(answer []byte) bool {
	switch dnsmessage.RCode(answer[3] & 0xf) {
	case dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused, dnsmessage.RCodeNotImplemented:
		return true
	}
	return false
}

// ask puts a query to one server by UDP, and when the answer is cut short again
// by TCP; if that fails the short one is the answer.
func (r *resolver) ask(ctx context.Context, server netip.AddrPort, q *query) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	answer, err := r.askOver(ctx, "udp", server, q)
	if err != nil || answer[2]&truncatedBit == 0 {
		return answer, err
	}
	if whole, err := r.askOver(ctx, "tcp", server, q); err == nil {
		return whole, nil
	}
	return answer, nil
}

// truncatedBit is TC in the third byte of a message.
const truncatedBit = 1 << 1

// askOver asks once. The ID is a new random one, and the socket's port too, so
// that nobody but the server can answer for it.
func (r *resolver) askOver(ctx context.Context, network string, server netip.AddrPort, q *query) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	id := uint16(rand.Uint32())
	message := slices.Clone(q.message)
	binary.BigEndian.PutUint16(message, id)
	if network == "tcp" {
		message = framed(message)
	}
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	for {
		answer, err := r.readAnswer(conn)
		if err != nil {
			return nil, err
		}
		if q.answeredBy(answer, id) {
			binary.BigEndian.PutUint16(answer, q.header.ID)
			return answer, nil
		}
	}
}

// readAnswer reads the next message; it holds memory only once one is there.
func (r *resolver) readAnswer(conn net.Conn) ([]byte, error) {
	datagrams, ok := conn.(*net.UDPConn)
	if !ok {
		return readMessage(conn, 1<<16-1)
	}
	raw, err := datagrams.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf, count, err := r.buffers.read(raw, copySize)
	if err != nil || buf == nil {
		return nil, err
	}
	defer buf.give()
	return slices.Clone(buf.bytes[:count]), nil
}

// answeredBy reports whether message answers the query that was sent under id.
func (q *query) answeredBy(message []byte, id uint16) bool {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.ID != id || !h.Response {
		return false
	}
	question, err := p.Question()
	if err != nil {
		// Servers may leave the question out of a refusal.
		return err == dnsmessage.ErrSectionDone && h.RCode != dnsmessage.RCodeSuccess
	}
	return question.Type == q.question.Type && question.Class == q.question.Class &&
		strings.EqualFold(question.Name.String(), q.question.Name.String())
}
