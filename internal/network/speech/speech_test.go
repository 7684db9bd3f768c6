package speech

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/banger-dev/banger/internal/policy"
)

// heard is what a connection said, in pieces of size bytes, and what passed. Its
// server confirms everything.
func heard(sent []byte, size int, judge Judge) (said []string, passed []byte, err error) {
	return heardBy(true, sent, size, judge)
}

func heardBy(strict bool, sent []byte, size int, judge Judge) (said []string, passed []byte, err error) {
	l := New(func(kind policy.Speech, host string) error {
		said = append(said, fmt.Sprintf("%s %s", kind, host))
		if judge != nil {
			return judge(kind, host)
		}
		return nil
	}, strict)
	for piece := range slices.Chunk(sent, size) {
		out, err := l.Pass(piece)
		if err != nil {
			return said, passed, err
		}
		passed = append(passed, out...)
		if l.Awaits() != policy.Unheard {
			passed = append(passed, l.Confirm()...)
		}
	}
	rest, err := l.End()
	return said, append(passed, rest...), err
}

// hello is what a TLS client says first.
func hello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(theirs, cfg).HandshakeContext(context.Background()) // ends with the pipe
		theirs.Close()
	}()
	buf := make([]byte, maxHello)
	n, err := ours.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	<-done
	return buf[:n]
}

// refragmented cuts the handshake message of a hello into records of size bytes.
func refragmented(record []byte, size int) []byte {
	var out []byte
	for piece := range slices.Chunk(record[recordHeader:], size) {
		out = append(append(out, recordHandshake, 3, 1, byte(len(piece)>>8), byte(len(piece))), piece...)
	}
	return out
}

func TestTLS(t *testing.T) {
	named := hello(t, &tls.Config{ServerName: "www.Example.org", NextProtos: []string{"h2", "http/1.1"}})
	for what, c := range map[string]struct {
		sent []byte
		want string
	}{
		"a name":      {named, "tls www.example.org"},
		"fragments":   {refragmented(named, 7), "tls www.example.org"},
		"old":         {hello(t, &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12}), "tls a.b"},
		"no name":     {hello(t, &tls.Config{InsecureSkipVerify: true}), "tls "},
		"an address":  {hello(t, &tls.Config{ServerName: "203.0.113.7"}), "tls "},
		"cut short":   {named[:len(named)-1], "other "},
		"version 2":   {[]byte{0x16, 2, 0, 0, 5, 1, 0, 0, 1, 0}, "other "},
		"not a hello": {[]byte{0x16, 3, 1, 0, 5, 2, 0, 0, 1, 0}, "other "},
		"empty":       {[]byte{0x16, 3, 1, 0, 0}, "other "},
		"huge":        {[]byte{0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, "other "},
	} {
		for _, size := range []int{1, 3, 1 << 20} {
			said, passed, err := heard(append(bytes.Clone(c.sent), "rest"...), size, nil)
			if what == "cut short" {
				said, passed, err = heard(c.sent, size, nil)
				passed = append(passed, "rest"...)
			}
			if err != nil || len(said) != 1 || !strings.EqualFold(said[0], c.want) || string(passed) != string(c.sent)+"rest" {
				t.Errorf("%s, by %d: %q, %d of %d bytes passed, %v", what, size, said, len(passed), len(c.sent)+4, err)
			}
		}
	}
}

// Two names in one hello, or a name twice, are no name.
func TestTLSTwoNames(t *testing.T) {
	record := hello(t, &tls.Config{ServerName: "good.example"})
	at := bytes.Index(record, []byte("good.example")) - 9
	ext := record[at : at+9+len("good.example")]
	if ext[0] != 0 || ext[1] != extServerName {
		t.Fatal("the extension is elsewhere")
	}
	twice := slices.Insert(bytes.Clone(record), at, bytes.Replace(ext, []byte("good"), []byte("evil"), 1)...)
	grow := func(i, width int) { // the length in width bytes at i counts the insertion too
		n := 0
		for _, b := range twice[i : i+width] {
			n = n<<8 | int(b)
		}
		n += len(ext)
		for j := range width {
			twice[i+width-1-j] = byte(n >> (8 * j))
		}
	}
	grow(3, 2)
	grow(6, 3)
	for i := range at { // the length of all extensions: it counts to the record's end
		if rest := len(twice) - i - 2 - len(ext); int(twice[i])<<8|int(twice[i+1]) == rest && i > 40 {
			grow(i, 2)
			break
		}
	}
	if said, _, _ := heard(twice, 1<<20, nil); !slices.Equal(said, []string{"other "}) {
		t.Errorf("%q", said)
	}
}

func TestHTTP(t *testing.T) {
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	for sent, want := range map[string][]string{
		get("Example.org"):                              {"http example.org"},
		get("a.b:8080") + get("c.d."):                   {"http a.b", "http c.d"},
		"GET / HTTP/1.0\r\n\r\n":                        {"http "},
		"GET http://a.b/x HTTP/1.1\r\nHost:a.b\r\n\r\n": {"http a.b"},
		"OPTIONS * HTTP/1.1\r\nhost:\ta.b \r\n\r\n":     {"http a.b"},
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n" + "." + get("b"):       {"http a", "http b"},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n0\r\nX-Y: z\r\n\r\n" + get("b"): {"http a", "http b"},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n" + get("b"):                             {"http a", "http b"},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n":                                            {"http a", "other "},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc":                                         {"http a", "other "},
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad field\r\n\r\n":                           {"http a", "other "},
		get("a") + "\r\n" + get("b"): {"http a", "other "},
		get("a") + "GET / HTT":       {"http a", "other "},
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n":          {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n":                              {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n":             {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                {"other "},
		"GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n":                      {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":                                         {"other "},
		"GET / HTTP/1.1\r\nHost : a\r\n\r\n":                                                   {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n":                                              {"other "},
		"GET / HTTP/1.1\nHost: a\n\n":                                                          {"other "},
		"GET / HTTP/1.1\r\nHost: a\r\nX: y\rHost: b\r\n\r\n":                                   {"other "},
		"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n":                                                 {"other "},
		"GET / HTTP/1.1\r\n\r\n":                                                               {"other "},
		"GET http://x/ HTTP/1.1\r\nHost: a\r\n\r\n":                                            {"other "},
		"GET http://a@x/ HTTP/1.1\r\nHost: a\r\n\r\n":                                          {"other "},
		"GET  / HTTP/1.1\r\nHost: a\r\n\r\n":                                                   {"other "},
		"GET / HTTP/2.0\r\nHost: a\r\n\r\n":                                                    {"other "},
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":                                                     {"other "},
		"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n":                                            {"other "},
		"SSH-2.0-OpenSSH\r\nmore":                                                              {"ssh "},
		"SSH-2.0-O\x01\r\n":                                                                    {"other "},
		"SSH-" + strings.Repeat("x", 300) + "\r\n":                                             {"other "},
		"SSH-2.0-OpenSSH\r\n":                                                                  {"ssh "},
		"SS":                                                                                   {"other "},
		"EHLO x\r\n":                                                                           {"other "},
		"AMQP\x00\x00\x09\x01":                                                                 {"other "},
		"\x00\x01":                                                                             {"other "},
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n":                    {"other "},
	} {
		for _, size := range []int{1, 5, 1 << 20} {
			if size == 1 && len(sent) > 10000 {
				continue
			}
			said, passed, err := heard([]byte(sent), size, nil)
			got := slices.Compact(said)
			if err != nil || !slices.Equal(got[:min(len(got), len(want))], want) || string(passed) != sent {
				t.Errorf("%.90q, by %d: %q, want %q; %d of %d passed, %v", sent, size, said, want, len(passed), len(sent), err)
			}
		}
	}
}

// What the judge refuses never passes, and nothing after it does.
func TestRefused(t *testing.T) {
	no := errors.New("no")
	judge := func(_ policy.Speech, host string) error {
		if host != "a" {
			return no
		}
		return nil
	}
	first := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
	for _, second := range []string{"GET /secret HTTP/1.1\r\nHost: b\r\n\r\n", "nonsense\n", "\r\n"} {
		for _, size := range []int{1, 1 << 20} {
			_, passed, err := heard([]byte(first+second), size, judge)
			if !errors.Is(err, no) || !strings.HasPrefix(first, string(passed)) {
				t.Errorf("%q passed, %v", passed, err)
			}
		}
	}
}

// One that only overhears lets everything through at once, but for the end of what
// is refused.
func TestOverhears(t *testing.T) {
	l := New(func(kind policy.Speech, host string) error {
		if host == "bad" {
			return errors.New("no")
		}
		return nil
	}, false)
	for _, piece := range []string{"G", "ET / HTTP/1.1\r\nHo", "st: good\r\n\r\n", "GET / HTTP/1.1\r\nHost: bad\r\n\r"} {
		if out, err := l.Pass([]byte(piece)); err != nil || string(out) != piece {
			t.Errorf("%q: %q, %v", piece, out, err)
		}
	}
	if out, err := l.Pass([]byte("\n")); err == nil || out != nil {
		t.Errorf("the end of what is refused passes: %q", out)
	}
}

// A strict listener has the server confirm what its client says it speaks.
func TestStrict(t *testing.T) {
	for _, c := range []struct {
		opening []byte
		kind    policy.Speech
		server  string
		other   string
	}{
		{hello(t, &tls.Config{ServerName: "a.b"}), policy.TLS, "\x16\x03\x03\x00", "HTTP/1.1 400"},
		{refragmented(hello(t, &tls.Config{ServerName: "a.b"}), 100), policy.TLS, "\x15\x03\x01\x00", "SSH-2.0-x"},
		{[]byte("SSH-2.0-client\r\n"), policy.SSH, "SSH-2.0-server\r\n", "\x16\x03\x03\x00"},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			l := New(func(policy.Speech, string) error { return nil }, true)
			var passed []byte
			for piece := range slices.Chunk(append(bytes.Clone(c.opening), "GET / HTTP/1.1\r\n"...), size) {
				out, err := l.Pass(piece)
				if err != nil {
					t.Fatal(err)
				}
				passed = append(passed, out...)
			}
			if !bytes.Equal(passed, c.opening) || l.Awaits() != c.kind {
				t.Errorf("%s, by %d: %d of %d bytes passed; awaits %q", c.kind, size, len(passed), len(c.opening), l.Awaits())
			}
			if !Confirms(c.kind, []byte(c.server)) || Confirms(c.kind, []byte(c.other)) {
				t.Errorf("%s: a server is taken for another", c.kind)
			}
			if rest := l.Confirm(); string(rest) != "GET / HTTP/1.1\r\n" || l.Awaits() != policy.Unheard {
				t.Errorf("%q waited", rest)
			}
			if out, err := l.Pass([]byte("x")); err != nil || string(out) != "x" {
				t.Errorf("after it: %q, %v", out, err)
			}
		}
	}
}

// FuzzListener: however the bytes come, the same is heard and all of it passes; and
// what is heard as HTTP, Go's own server reads as for the same host.
func FuzzListener(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n"), 7)
	f.Add([]byte("GET http://a/ HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx"), 1)
	f.Add(hello(f, &tls.Config{ServerName: "a.b"}), 50)
	f.Add([]byte("SSH-2.0-x\r\n"), 2)
	f.Fuzz(func(t *testing.T, sent []byte, size int) {
		size = max(size, 1)
		whole, passed, err := heard(sent, len(sent)+1, nil)
		if err != nil || !bytes.Equal(passed, sent) {
			t.Fatalf("%d of %d bytes passed, %v", len(passed), len(sent), err)
		}
		for _, strict := range []bool{true, false} {
			pieces, passed, err := heardBy(strict, sent, size, nil)
			if err != nil || !bytes.Equal(passed, sent) || !slices.Equal(pieces, whole) {
				t.Fatalf("strict %v, by %d: %q, whole: %q; %d bytes, %v", strict, size, pieces, whole, len(passed), err)
			}
		}
		compareHTTP(t, sent, whole)
	})
}

// compareHTTP reads the same bytes with net/http, up to what was not heard as HTTP.
func compareHTTP(t *testing.T, sent []byte, said []string) {
	in := bufio.NewReader(bytes.NewReader(sent))
	for _, s := range said {
		host, isHTTP := strings.CutPrefix(s, "http ")
		if !isHTTP {
			return
		}
		r, err := http.ReadRequest(in)
		if err != nil {
			return // stricter than we are
		}
		if got := policy.CleanHost(r.Host); got != host {
			t.Fatalf("%q is for %q, and net/http says %q", sent, host, got)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	}
}
