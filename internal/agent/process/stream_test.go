package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
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

func TestBackPressure(t *testing.T) {
	m := testManager(t, Options{})
	conn, r, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"cat", "/dev/zero"}}, nil)
	got := 0
	for got < stream.Unacked {
		got += len(expect(t, r, stream.Stdout))
	}
	if got != stream.Unacked {
		t.Errorf("%d unacknowledged bytes, at most %d are allowed", got, stream.Unacked)
	}
	// It has stopped; and a signal gets through nevertheless.
	signal, _ := proto.Marshal(&agentv1.ExecSignal{Signal: int32(syscall.SIGTERM)})
	_, _ = conn.Write(stream.Append(nil, stream.Signal, signal))
	eventually(t, "the process ends", func() bool { return !alive(int(started.Pid)) })
	_, _ = conn.Write(stream.AppendAck(nil, uint64(got)))
	exit := &agentv1.ExecExit{}
	for {
		kind, payload, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == stream.Exit {
			_ = proto.Unmarshal(payload, exit)
			break
		}
	}
	if exit.Code != 143 || exit.Signal != 15 {
		t.Errorf("%v", exit)
	}
}

func TestInputOfADeafProcess(t *testing.T) {
	m := testManager(t, Options{})
	conn, r, _ := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}, Stdin: true}, nil)
	block := stream.Append(nil, stream.Stdin, make([]byte, stream.MaxPayload))
	for range stream.Unacked / stream.MaxPayload {
		if _, err := conn.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	// What the client may send was taken, so a signal is not stuck behind it.
	signal, _ := proto.Marshal(&agentv1.ExecSignal{Signal: int32(syscall.SIGINT)})
	_, _ = conn.Write(stream.Append(nil, stream.Signal, signal))
	for {
		kind, payload, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == stream.Exit {
			exit := &agentv1.ExecExit{}
			_ = proto.Unmarshal(payload, exit)
			if exit.Signal != int32(syscall.SIGINT) {
				t.Errorf("%v", exit)
			}
			return
		}
	}
}

func TestInputFloodEndsTheClient(t *testing.T) {
	m := testManager(t, Options{Grace: time.Hour})
	conn, _, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sleep", "1000"}, Stdin: true}, nil)
	block := stream.Append(nil, stream.Stdin, make([]byte, stream.MaxPayload))
	var err error
	for range 64 {
		if _, err = conn.Write(block); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("8 MiB of unacknowledged input were taken")
	}
	eventually(t, "the process ends", func() bool { return !alive(int(started.Pid)) })
}

func TestInputThatNobodyReads(t *testing.T) {
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"sh", "-c", "exec <&-; sleep 0.1; echo closed"}, Stdin: true})
	c.stdin = io.LimitReader(rand.NewChaCha8([32]byte{}), 20<<20)
	if exit, failure := c.run(); exit.GetCode() != 0 || c.stdout.String() != "closed\n" {
		t.Errorf("%v %v %q", exit, failure, c.stdout.String())
	}
}

func TestNoInput(t *testing.T) {
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"cat"}})
	if exit, _ := c.run(); exit.GetCode() != 0 {
		t.Errorf("%v", exit)
	}
}

// TestLeftBehind is a command that ends while a child holds its streams.
func TestLeftBehind(t *testing.T) {
	m := testManager(t, Options{Quiet: 50 * time.Millisecond})
	c, exit := sh(t, m, `sleep 1000 & echo $!; exit 4`)
	pid, err := strconv.Atoi(strings.TrimSpace(c.stdout.String()))
	if err != nil || exit.Code != 4 {
		t.Fatalf("%v %v", exit, err)
	}
	if !alive(pid) {
		t.Error("what the command left running was ended")
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestLeftBehindWriterLives(t *testing.T) {
	m := testManager(t, Options{Quiet: 10 * time.Millisecond})
	path := t.TempDir() + "/alive"
	c, _ := sh(t, m, `(while [ ! -e `+path+` ]; do echo noise; sleep 0.02; done; echo yes >`+path+`.seen) & echo $!`)
	if c.received == 0 {
		t.Error("no output")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child goes on writing", func() bool {
		_, err := os.Stat(path + ".seen")
		return err == nil
	})
}

func TestLargeEndOfStream(t *testing.T) {
	m := testManager(t, Options{Quiet: 50 * time.Millisecond})
	for range 20 {
		c, _ := sh(t, m, "head -c 1000000 /dev/zero; head -c 300000 /dev/zero >&2; sleep 1000 & echo $! >&2")
		if c.stdout.Len() != 1000000 || c.stderr.Len() <= 300000 {
			t.Fatalf("%d and %d bytes", c.stdout.Len(), c.stderr.Len())
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(strings.TrimLeft(c.stderr.String(), "\x00")))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := testManager(t, Options{})
	before := heap()
	// Single bytes, in turns on both streams, are the worst that can be kept.
	_, _, _ = attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sh", "-c",
		`i=0; while [ $i -lt 20000 ]; do printf a; printf b >&2; i=$((i+1)); done; cat /dev/zero`}}, nil)
	p := m.only(t)
	eventually(t, "the log is full", func() bool {
		p.out.mu.Lock()
		defer p.out.mu.Unlock()
		return p.out.end-p.out.acked >= stream.Unacked
	})
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("a process that nobody reads keeps %d bytes", grown)
	}
}

func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func (m *Manager) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.processes)
}

func (m *Manager) only(t *testing.T) *Process {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for p := range m.processes {
		return p
	}
	t.Fatal("no process")
	return nil
}

// FuzzServeExec gives the door a stream of hostile bytes after a good start.
func FuzzServeExec(f *testing.F) {
	start, _ := proto.Marshal(&agentv1.ExecStart{Id: newID(), Argv: []string{"cat"}, Stdin: true})
	good := stream.Append(nil, stream.Start, start)
	f.Add([]byte{}, true)
	f.Add(stream.Append(nil, stream.Stdin, []byte("hello")), true)
	f.Add(stream.AppendAck(nil, 1<<60), true)
	f.Add(stream.Append(nil, stream.Signal, []byte{8, 255, 255, 255, 255, 15}), true)
	f.Add(stream.Append(stream.Append(nil, stream.StdinEOF, nil), stream.Stdin, []byte("after")), true)
	seed, _ := hex.DecodeString("01ffffff7f")
	f.Add(seed, false)
	f.Fuzz(func(t *testing.T, data []byte, started bool) {
		if !started && bytes.HasPrefix(data, []byte{byte(stream.Start)}) && len(data) > 200 {
			return // it must not find a command of its own to run
		}
		m := testManager(t, Options{Grace: time.Millisecond, Quiet: time.Millisecond})
		conn := serveOn(t, m, nil)
		if started {
			data = append(bytes.Clone(good), data...)
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_, _ = io.Copy(io.Discard, conn)
		}()
		_, _ = conn.Write(data)
		_ = conn.Close()
		<-drained
		eventually(t, "the process goes with its client", func() bool { return m.count() == 0 })
	})
}
