package ports

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The protocols that a probe tells apart.
const (
	protoTCP   = "tcp"
	protoTLS   = "tls"
	protoHTTP  = "http"
	protoHTTPS = "https"
)

const (
	// firstByte bounds the wait for a first byte: who waits for a whole line says
	// nothing to a greeting of TLS.
	firstByte = 700 * time.Millisecond
	// phase bounds one attempt in all, under emulation a handshake takes long.
	phase = 3 * time.Second
	// maxProbeRead bounds what is read in one attempt, in bytes.
	maxProbeRead = 64 << 10
	// probesAtOnce is how many ports are asked at once.
	probesAtOnce = 8
)

// verdictKey is what a verdict is kept for.
type verdictKey struct {
	port uint16
	pid  int32
	addr netip.Addr
}

func (l Listener) key() verdictKey { return verdictKey{l.Port, l.PID, l.Addrs[0]} }

// Probe finds out which of list, as View gave it, speak HTTP or TLS, and sets
// their Protocol. What is found is kept as long as the socket listens.
func (t *Table) Probe(ctx context.Context, list []Port) {
	found := map[verdictKey]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	places := make(chan struct{}, probesAtOnce)
	asked := map[verdictKey]bool{}
	for _, p := range list {
		if len(p.Addrs) == 0 || !p.Host.IsValid() || asked[p.key()] {
			continue
		}
		asked[p.key()] = true
		if known, ok := t.verdict(p.key()); ok {
			found[p.key()] = known
			continue
		}
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			protocol, sure := t.probe(ctx, p.Target())
			if sure {
				t.keep(p.key(), protocol)
			}
			mu.Lock()
			defer mu.Unlock()
			found[p.key()] = protocol
		})
	}
	all.Wait()
	for i, p := range list {
		if len(p.Addrs) > 0 && found[p.key()] != "" {
			list[i].Protocol = found[p.key()]
		}
	}
}

func (t *Table) verdict(k verdictKey) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.verdicts[k]
	return v, ok
}

// keep notes a verdict about a socket that still listens.
func (t *Table) keep(k verdictKey, protocol string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range t.list {
		if l.key() == k {
			t.verdicts[k] = protocol
		}
	}
}

// probe asks in the language of TLS first, and then plainly. sure says that the
// answer will not change: something answered.
func (t *Table) probe(ctx context.Context, to Target) (protocol string, sure bool) {
	protocol, sure = t.attempt(ctx, to, t.probeTLS)
	if sure {
		return protocol, true
	}
	return t.attempt(ctx, to, t.probeHTTP)
}

func (t *Table) attempt(ctx context.Context, to Target, ask func(context.Context, net.Conn) (string, bool)) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, phase)
	defer cancel()
	conn, err := t.Dial(ctx, to)
	if err != nil {
		return protoTCP, false
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	return ask(ctx, &probed{Conn: conn, end: end, left: maxProbeRead})
}

// probed bounds what a probe reads, in time and size.
type probed struct {
	net.Conn
	end  time.Time
	left int
	read bool
}

// Read implements net.Conn.
func (c *probed) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	limit := c.end
	if early := time.Now().Add(firstByte); !c.read && early.Before(limit) {
		limit = early
	}
	if err := c.SetReadDeadline(limit); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	c.read = c.read || n > 0
	return n, err
}

// probeTLS is sure where the answer is one of TLS, or plain HTTP that complains.
func (t *Table) probeTLS(ctx context.Context, conn net.Conn) (string, bool) {
	// Nothing secret is said and nothing that is heard is trusted.
	client := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: t.Name, NextProtos: []string{"http/1.1"}})
	err := client.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	var refused *net.OpError
	switch {
	case err == nil:
		if protocol, sure := t.probeHTTP(ctx, client); sure && protocol == protoHTTP {
			return protoHTTPS, true
		}
		return protoTLS, true
	case errors.As(err, &plain):
		return protoHTTP, string(plain.RecordHeader[:]) == "HTTP/"
	case errors.As(err, &refused) && refused.Op == "remote error":
		return protoTLS, true // it wants another name, or a certificate of us
	}
	return protoTCP, false
}

// probeHTTP is sure where there was an answer.
func (t *Table) probeHTTP(_ context.Context, conn net.Conn) (string, bool) {
	_ = conn.SetWriteDeadline(time.Now().Add(phase)) // a failure shows in the write
	if _, err := io.WriteString(conn, "HEAD / HTTP/1.1\r\nHost: "+t.Name+"\r\nUser-Agent: banger\r\nConnection: close\r\n\r\n"); err != nil {
		return protoTCP, false
	}
	answer := make([]byte, len("HTTP/"))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return protoTCP, false
	}
	if string(answer) == "HTTP/" {
		return protoHTTP, true
	}
	return protoTCP, true
}
