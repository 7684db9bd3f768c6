package ports

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
)

// serverOf serves each connection with one function, on a port of the host that
// the table dials as if it were the guest's.
func serverOf(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); serve(conn) }()
		}
	}()
	return l.Addr().String()
}

func TestProbe(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "dev.vm" {
			t.Errorf("asked for host %q", r.Host)
		}
	})
	secure, plain := httptest.NewTLSServer(ok), httptest.NewServer(ok)
	defer secure.Close()
	defer plain.Close()
	for want, where := range map[string][]string{
		protoHTTPS: {secure.Listener.Addr().String()},
		protoHTTP: {plain.Listener.Addr().String(), serverOf(t, func(c net.Conn) {
			in := bufio.NewReader(c) // who understands only lines, and waits for one
			if line, err := in.ReadString('\n'); err == nil && line[:4] == "HEAD" {
				io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\n")
			}
		})},
		protoTLS: {serverOf(t, func(c net.Conn) { c.Write([]byte{21, 3, 1, 0, 2, 2, 80}) })},
		protoTCP: {
			serverOf(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0-x\r\n"); io.Copy(io.Discard, c) }),
			serverOf(t, func(c net.Conn) {}),
			"127.0.0.1:1",
		},
	} {
		for _, addr := range where {
			var dials atomic.Int32
			table := newTable(t, func(o *Options) {
				o.Dial = func(ctx context.Context, _ Target) (net.Conn, error) {
					dials.Add(1)
					return new(net.Dialer).DialContext(ctx, "tcp", addr)
				}
			})
			table.Set([]Listener{on(freePort(t), 1, "0.0.0.0")}, false)
			list, _ := table.View()
			table.Probe(t.Context(), list)
			if list[0].Protocol != want {
				t.Errorf("%s is %q, want %q", addr, list[0].Protocol, want)
			}
			before := dials.Load()
			if table.Probe(t.Context(), list); want != protoTCP && dials.Load() != before {
				t.Errorf("%s: a verdict is not kept", want)
			}
		}
	}
}

// FuzzProbe: a guest may answer a probe with anything.
func FuzzProbe(f *testing.F) {
	f.Add([]byte("HTTP/1.0 400\r\n"))
	f.Add([]byte{21, 3, 1, 0, 2, 2, 80})
	f.Add([]byte{22, 3, 3, 0, 4, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, answer []byte) {
		table := &Table{Options: Options{Name: "dev.vm", Dial: func(context.Context, Target) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { io.Copy(io.Discard, theirs) }()
			go func() { theirs.Write(answer); theirs.Close() }()
			return ours, nil
		}}}
		got, _ := table.probe(t.Context(), Target{Port: 80, Door: netip.IPv6Loopback()})
		if !slices.Contains([]string{protoTCP, protoTLS, protoHTTP, protoHTTPS}, got) {
			t.Errorf("verdict %q", got)
		}
	})
}
