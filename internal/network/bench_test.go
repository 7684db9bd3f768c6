package network

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// The throughput of one flow, both stacks and the socket between them in this
// process: the guest's side costs as much as ours.

func BenchmarkGuestToHost(b *testing.B) {
	out := newOutside(b)
	server := out.listen(func(conn *net.TCPConn) {
		_, _ = io.Copy(io.Discard, conn)
		_, _ = conn.Write([]byte("x"))
	})
	_, g := start(b, Config{NAT: true})
	conn := g.mustDial(server)
	chunk := make([]byte, 256<<10)
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	for range b.N {
		if _, err := conn.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	if err := conn.CloseWrite(); err != nil {
		b.Fatal(err)
	}
	if _, err := conn.Read(chunk); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkHostToGuest(b *testing.B) {
	out := newOutside(b)
	chunk := make([]byte, 256<<10)
	server := out.listen(func(conn *net.TCPConn) {
		for range b.N {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	})
	_, g := start(b, Config{NAT: true})
	b.SetBytes(int64(len(chunk)))
	b.ResetTimer()
	conn := g.mustDial(server)
	if count, err := io.Copy(io.Discard, conn); err != nil || count != int64(b.N)*int64(len(chunk)) {
		b.Fatal(count, err)
	}
}

func BenchmarkConnect(b *testing.B) {
	out := newOutside(b)
	server := out.listen(echo)
	_, g := start(b, Config{NAT: true})
	for range b.N {
		conn := g.mustDial(server)
		if err := conn.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	out := newOutside(b)
	server := out.listen(echo)
	_, g := start(b, Config{NAT: true})
	conn := g.mustDial(server)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 64)
	for range b.N {
		if _, err := conn.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpload is BenchmarkGuestToHost with the body of a request, with and
// without somebody who listens for which host it is.
func BenchmarkUpload(b *testing.B) {
	for name, rules := range map[string][]string{"heard": {"allow a.example:*"}, "unheard": {"allow 198.18.0.0/15"}} {
		b.Run(name, func(b *testing.B) {
			out := newOutside(b)
			server := out.listen(func(conn *net.TCPConn) {
				_, _ = io.Copy(io.Discard, conn)
				_, _ = conn.Write([]byte("x"))
			})
			_, g, _ := ruled(b, out, append(rules, "allow a.example"), "a.example")
			conn := g.mustDial(server)
			chunk := make([]byte, 256<<10)
			b.SetBytes(int64(len(chunk)))
			b.ResetTimer()
			head := fmt.Sprintf("PUT / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", b.N*len(chunk))
			if _, err := conn.Write([]byte(head)); err != nil {
				b.Fatal(err)
			}
			for range b.N {
				if _, err := conn.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			if err := conn.CloseWrite(); err != nil {
				b.Fatal(err)
			}
			if _, err := conn.Read(chunk); err != nil {
				b.Fatal(err)
			}
		})
	}
}
