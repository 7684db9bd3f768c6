package process

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// slowWriter hashes, and now and then lets the world run ahead.
type slowWriter struct {
	hash.Hash
	n int
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if w.n += len(p); w.n%7 == 0 {
		for range 20 {
			runtime.Gosched()
		}
	}
	return w.Hash.Write(p)
}

func TestCatBothWays(t *testing.T) {
	const size = 128 << 20
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"cat"}, Stdin: true})
	in := sha256.New()
	c.stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), in)
	out := &slowWriter{Hash: sha256.New()}
	c.out = out
	begun := time.Now()
	exit, failure := c.run()
	if exit.GetCode() != 0 || failure != nil {
		t.Fatalf("%v %v", exit, failure)
	}
	if c.received != size || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Errorf("%d bytes of %d came back, or others", c.received, size)
	}
	t.Logf("%.0f MiB/s both ways", size/(1<<20)/time.Since(begun).Seconds())
}

func TestOutputThroughput(t *testing.T) {
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"head", "-c", "256M", "/dev/zero"}})
	c.out = io.Discard
	begun := time.Now()
	if exit, _ := c.run(); exit.GetCode() != 0 || c.received != 256<<20 {
		t.Errorf("%v, %d bytes", exit, c.received)
	}
	t.Logf("%.0f MiB/s", 256/time.Since(begun).Seconds())
}

// fragileConn breaks after some bytes in either direction.
type fragileConn struct {
	net.Conn
	left   atomic.Int64
	broken *atomic.Bool
}

func (f *fragileConn) spend(n int) {
	if f.left.Add(-int64(n)) < 0 {
		f.broken.Store(true)
		_ = f.Close()
	}
}

func (f *fragileConn) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p[:min(len(p), 8192)])
	f.spend(n)
	return n, err
}

func (f *fragileConn) Write(p []byte) (int, error) {
	// A frame may be cut in two.
	if left := f.left.Load(); left >= 0 && left < int64(len(p)) {
		n, _ := f.Conn.Write(p[:left])
		f.spend(len(p))
		return n, net.ErrClosed
	}
	f.spend(len(p))
	return f.Conn.Write(p)
}

// fragile makes a client whose every connection breaks at a random point.
func fragile(t *testing.T, m *Manager, start *agentv1.ExecStart, seed uint64) *refClient {
	c := newClient(t, m, start)
	random := rand.New(rand.NewPCG(seed, 1))
	c.dial = func() net.Conn {
		broken := &atomic.Bool{}
		f := &fragileConn{Conn: serveOn(t, m, broken), broken: broken}
		// From the middle of the start frame to a megabyte; mostly early.
		f.left.Store(int64(300+random.IntN(3000)) << random.IntN(9))
		return f
	}
	return c
}

func TestBrokenLinks(t *testing.T) {
	m := testManager(t, Options{})
	joins := 0
	for seed := uint64(0); joins < 400; seed++ {
		c := fragile(t, m, &agentv1.ExecStart{
			Argv: []string{"sh", "-c", "cat; exit 5"}, Stdin: true,
		}, seed)
		in, out := sha256.New(), &slowWriter{Hash: sha256.New()}
		size := int64(6<<20 + seed*12345)
		c.stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(seed)}), size), in)
		c.out = out
		exit, failure := c.run()
		if exit.GetCode() != 5 || c.received != uint64(size) || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
			t.Fatalf("seed %d, after %d joins: %v %v, %d bytes of %d", seed, c.joins, exit, failure, c.received, size)
		}
		joins += c.joins
	}
	t.Logf("%d joins", joins)
}

func TestBrokenLinksKeepStreamsInOrder(t *testing.T) {
	m := testManager(t, Options{})
	for seed := range uint64(5) {
		c := fragile(t, m, &agentv1.ExecStart{Argv: []string{"sh", "-c",
			`i=0; while [ $i -lt 3000 ]; do echo "o$i"; echo "e$i" >&2; i=$((i+1)); done; exit 9`}}, seed)
		if exit, failure := c.run(); exit.GetCode() != 9 {
			t.Fatalf("seed %d: %v %v", seed, exit, failure)
		}
		for prefix, got := range map[string]string{"o": c.stdout.String(), "e": c.stderr.String()} {
			for i, line := range strings.Fields(got) {
				if line != prefix+strconv.Itoa(i) {
					t.Fatalf("seed %d: line %d is %q", seed, i, line)
				}
			}
			if strings.Count(got, "\n") != 3000 {
				t.Fatalf("seed %d: %d lines", seed, strings.Count(got, "\n"))
			}
		}
	}
}

// attachRaw starts a process and returns once Started has come.
func attachRaw(t *testing.T, m *Manager, start *agentv1.ExecStart, broken *atomic.Bool) (net.Conn, *stream.Reader, *agentv1.ExecStarted) {
	t.Helper()
	conn := serveOn(t, m, broken)
	if os.Getuid() != 0 {
		start.User = strconv.Itoa(os.Getuid())
	}
	payload, err := proto.Marshal(start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(stream.Append(nil, stream.Start, payload)); err != nil {
		t.Fatal(err)
	}
	r := stream.NewReader(conn)
	kind, payload, err := r.Next()
	if err != nil || kind != stream.Started {
		t.Fatalf("kind %d %q, %v", kind, payload, err)
	}
	started := &agentv1.ExecStarted{}
	if err := proto.Unmarshal(payload, started); err != nil {
		t.Fatal(err)
	}
	return conn, r, started
}

func expect(t *testing.T, r *stream.Reader, want stream.Kind) []byte {
	t.Helper()
	kind, payload, err := r.Next()
	if err != nil || kind != want {
		t.Fatalf("kind %d %q, %v; want kind %d", kind, payload, err, want)
	}
	return payload
}

func TestSameStartTwiceIsOneProcess(t *testing.T) {
	m := testManager(t, Options{})
	start := &agentv1.ExecStart{Id: newID(), Argv: []string{"cat"}, Stdin: true}
	first, _, a := attachRaw(t, m, start, nil)
	second, r, b := attachRaw(t, m, start, nil)
	if a.Pid != b.Pid {
		t.Errorf("two processes: %d and %d", a.Pid, b.Pid)
	}
	// The first connection was replaced, which is not leaving.
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the first connection is still served")
	}
	_, _ = second.Write(stream.Append(stream.Append(nil, stream.Stdin, []byte("x")), stream.StdinEOF, nil))
	if got := expect(t, r, stream.Stdout); string(got) != "x" {
		t.Errorf("%q", got)
	}
	expect(t, r, stream.Exit)
}

func TestClientLeft(t *testing.T) {
	m := testManager(t, Options{Grace: time.Hour})
	conn, _, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}}, nil)
	_ = conn.Close()
	eventually(t, "SIGHUP ends the process", func() bool { return !alive(int(started.Pid)) })
	eventually(t, "no record is left", func() bool { return m.count() == 0 })
}

func TestClientLeftOfADeafProcess(t *testing.T) {
	m := testManager(t, Options{Grace: 30 * time.Millisecond})
	conn, r, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(),
		Argv: []string{"sh", "-c", "trap '' HUP; echo deaf; while :; do sleep 1000; done"}}, nil)
	expect(t, r, stream.Stdout)
	_ = conn.Close()
	eventually(t, "SIGKILL ends the process", func() bool { return !alive(int(started.Pid)) })
	eventually(t, "no record is left", func() bool { return m.count() == 0 })
}

func TestNobodyJoins(t *testing.T) {
	m := testManager(t, Options{Join: 20 * time.Millisecond, Grace: time.Hour})
	broken := &atomic.Bool{}
	start := &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}}
	conn, _, started := attachRaw(t, m, start, broken)
	broken.Store(true)
	_ = conn.Close()
	eventually(t, "SIGHUP ends the process", func() bool { return !alive(int(started.Pid)) })
	eventually(t, "no record is left", func() bool { return m.count() == 0 })
	start.JoinOnly = true
	if _, failure := newClient(t, m, start).run(); failure.GetCode() != CodeGone {
		t.Errorf("join: %v", failure)
	}
}

func TestEndWhileTheLinkIsBroken(t *testing.T) {
	m := testManager(t, Options{})
	broken := &atomic.Bool{}
	start := &agentv1.ExecStart{Id: newID(), Argv: []string{"sh", "-c", "read x; echo late; exit 3"}, Stdin: true}
	conn, _, started := attachRaw(t, m, start, broken)
	_, _ = conn.Write(stream.Append(nil, stream.Stdin, []byte("go\n")))
	broken.Store(true)
	_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	eventually(t, "the process ends", func() bool { return !alive(int(started.Pid)) })
	_ = conn.Close()
	c := newClient(t, m, &agentv1.ExecStart{Id: start.Id, JoinOnly: true})
	if exit, failure := c.run(); exit.GetCode() != 3 || c.stdout.String() != "late\n" {
		t.Errorf("%v %v %q", exit, failure, c.stdout.String())
	}
	eventually(t, "the record goes with its client", func() bool { return m.count() == 0 })
}

func TestFailedStartCanBeAskedAgain(t *testing.T) {
	m := testManager(t, Options{})
	broken := &atomic.Bool{}
	broken.Store(true)
	start := &agentv1.ExecStart{Id: newID(), Argv: []string{"nosuchcommand"}}
	conn := serveOn(t, m, broken)
	payload, _ := proto.Marshal(start)
	_, _ = conn.Write(stream.Append(nil, stream.Start, payload))
	expect(t, stream.NewReader(conn), stream.Error)
	_ = conn.Close()
	start.JoinOnly = true
	if _, failure := newClient(t, m, start).run(); failure.GetCode() != CodeNotFound {
		t.Errorf("join: %v", failure)
	}
}
