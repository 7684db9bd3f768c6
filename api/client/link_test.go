package client

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/unixsock"
)

// supervisor answers one connection with reply, and then sends rest.
func supervisor(t *testing.T, reply string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "link.sock")
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		request := make([]byte, len("CONNECT 1025\n"))
		if _, err := io.ReadFull(conn, request); err != nil || string(request) != "CONNECT 1025\n" {
			t.Errorf("request %q, %v", request, err)
		}
		io.WriteString(conn, reply)
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return path
}

func TestDialLink(t *testing.T) {
	conn, err := DialLink(t.Context(), supervisor(t, "OK\nrest"), 1025)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if rest, _ := io.ReadAll(conn); string(rest) != "rest" {
		t.Fatalf("what follows is %q", rest)
	}
}

func TestDialLinkRefused(t *testing.T) {
	for reply, want := range map[string]string{
		"ERR no such port\n":                     "no such port",
		"":                                       "closed the connection",
		"OK":                                     "closed the connection",
		"ERR":                                    "closed the connection",
		"WHAT\n":                                 `unexpected answer "WHAT"`,
		"\n\n\n":                                 "unexpected answer",
		"ERR " + strings.Repeat("x", 2*maxReply): "too long",
	} {
		_, err := DialLink(t.Context(), supervisor(t, reply), 1025)
		if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", reply, err, want)
		}
	}
	if _, err := DialLink(t.Context(), filepath.Join(t.TempDir(), "none"), 1025); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("no socket: %v", err)
	}
}

func TestDialLinkCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "link.sock")
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var silent net.Conn
	var serving sync.WaitGroup
	serving.Go(func() { silent, _ = l.Accept(); cancel() })
	_, err = DialLink(ctx, path, 1025)
	serving.Wait()
	silent.Close()
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("DialLink: %v", err)
	}
}
