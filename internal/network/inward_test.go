package network

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

func TestDialIntoGuest(t *testing.T) {
	n, g := start(t, Config{})
	listener, err := gonet.ListenTCP(g.stack, fullAddress(netip.AddrPortFrom(guestAddr, 8080)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		conn.Close()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := n.DialContext(ctx, netip.AddrPortFrom(guestAddr, 8080))
	if err != nil {
		t.Fatal(err)
	}
	deadline(t, conn)
	if _, err := conn.Write([]byte("in")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "in" {
		t.Fatalf("%q, %v", got, err)
	}
	conn.Close()
	<-served
	listener.Close()

	if _, err := n.DialContext(ctx, netip.AddrPortFrom(guestAddr, 8080)); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v, want refused", err)
	}
	if _, err := n.DialContext(ctx, netip.MustParseAddrPort("1.1.1.1:80")); banger.CodeOf(err) != banger.CodeUsage {
		t.Errorf("an address outside: %v", err)
	}
}

func TestInwardBound(t *testing.T) {
	n, g := start(t, Config{})
	listener, err := gonet.ListenTCP(g.stack, fullAddress(netip.AddrPortFrom(guestAddr, 8080)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	n.inward.Store(maxInward - 1)
	dst := netip.AddrPortFrom(guestAddr, 8080)
	conn, err := n.DialContext(context.Background(), dst)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.DialContext(context.Background(), dst); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("one too many: %v", err)
	}
	conn.Close()
	conn.Close() // gives its place back once
	if n.inward.Load() != maxInward-1 {
		t.Errorf("%d connections are counted", n.inward.Load())
	}
}

func TestJoin(t *testing.T) {
	n, g := start(t, Config{})
	listener, err := gonet.ListenTCP(g.stack, fullAddress(netip.AddrPortFrom(guestAddr, 8080)), ipv4.ProtocolNumber)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(conn, conn)
			conn.Close()
		}
	}()
	host, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	join := func(port uint16) (client net.Conn, joined <-chan error) {
		client, err := net.Dial("tcp", host.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		outside, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			done <- n.Join(t.Context(), outside.(*net.TCPConn), port)
			outside.Close()
		}()
		deadline(t, client)
		return client, done
	}
	client, joined := join(8080)
	defer client.Close()
	sent := strings.Repeat("through", 100_000)
	go func() {
		_, _ = io.WriteString(client, sent)
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(client); err != nil || string(got) != sent {
		t.Errorf("%d bytes of %d came back, %v", len(got), len(sent), err)
	}
	if err := <-joined; err != nil || n.inward.Load() != 0 {
		t.Errorf("it ended with %v, %d are open", err, n.inward.Load())
	}

	refused, joined := join(8081)
	defer refused.Close()
	if err := <-joined; err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a closed port: %v", err)
	}

	cut, joined := join(8080)
	defer cut.Close()
	if _, err := io.WriteString(cut, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(cut, make([]byte, 1)); err != nil { // it is joined
		t.Fatal(err)
	}
	n.Close()
	if err := <-joined; err != nil {
		t.Errorf("closing the network: %v", err)
	}
	if _, err := cut.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives its network")
	}
}
