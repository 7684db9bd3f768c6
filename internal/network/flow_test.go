package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

func TestEcho(t *testing.T) {
	out := newOutside(t)
	server := out.listen(echo)
	_, g := start(t, Config{NAT: true})
	conn := g.mustDial(server)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("sent %d bytes, %d came back, %v", len(sent), len(got), err)
	}
}

func TestRefusedFast(t *testing.T) {
	n, g := start(t, Config{NAT: true})
	begin := time.Now()
	for _, dst := range []string{"10.1.2.3:80", "127.0.0.1:22", "192.168.127.1:80", "192.168.127.77:1"} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		_, err := g.dial(ctx, netip.MustParseAddrPort(dst))
		cancel()
		t.Log(dst, err, time.Since(begin))
		if err == nil {
			t.Errorf("%s is reachable", dst)
		}
	}
	t.Logf("%+v", n.Counters())
}

var _ net.Conn
