package process

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// refClient is a plain client of the exec door, for one process. It survives
// broken links: dial is called again and the counts go on.
type refClient struct {
	t     *testing.T
	dial  func() net.Conn
	start *agentv1.ExecStart
	stdin io.Reader
	out   io.Writer // of both streams, when not nil
	// onStarted is called after each Started.
	onStarted func(conn net.Conn)

	mu       sync.Mutex
	changed  *sync.Cond
	conn     net.Conn
	kept     []byte // input from acked on
	acked    uint64
	sent     uint64 // count up to which this connection has been sent
	stdinEnd bool
	eofSent  bool
	done     bool

	stdout, stderr bytes.Buffer
	received       uint64
	ackSent        uint64
	joins          int
	pid            int32
}

func newClient(t *testing.T, m *Manager, start *agentv1.ExecStart) *refClient {
	t.Helper()
	if start.Id == nil {
		start.Id = newID()
	}
	if start.User == "" && os.Getuid() != 0 {
		start.User = strconv.Itoa(os.Getuid())
	}
	c := &refClient{t: t, start: start}
	c.changed = sync.NewCond(&c.mu)
	c.dial = func() net.Conn { return serveOn(t, m, nil) }
	return c
}

func newID() []byte {
	id := make([]byte, idSize)
	_, _ = rand.Read(id)
	return id
}

// serveOn serves one exec stream on a socket pair and returns the client's end.
// The link counts as broken while broken is set.
func serveOn(t *testing.T, m *Manager, broken *atomic.Bool) net.Conn {
	t.Helper()
	ours, theirs := socketPair(t)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		m.ServeExec(theirs, func() bool { return broken != nil && broken.Load() })
	}()
	t.Cleanup(func() {
		_ = ours.Close()
		<-finished
	})
	return ours
}

func socketPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	return conns[0], conns[1]
}

// run speaks until Exit or Error, joining again whenever the connection ends.
func (c *refClient) run() (*agentv1.ExecExit, *agentv1.ExecError) {
	c.t.Helper()
	if c.stdin != nil {
		go c.readInput()
	}
	for {
		exit, failure, err := c.once()
		if err == nil {
			c.finish()
			return exit, failure
		}
		c.joins++
		c.start.JoinOnly = c.joins > 1
		c.start.Received = c.received
	}
}

func (c *refClient) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = true
	c.changed.Broadcast()
	_ = c.conn.Close()
}

// readInput keeps at most stream.Unacked bytes of input.
func (c *refClient) readInput() {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.stdin.Read(buf)
		c.mu.Lock()
		for len(c.kept)+n > stream.Unacked && !c.done {
			c.changed.Wait()
		}
		c.kept = append(c.kept, buf[:n]...)
		c.stdinEnd = err != nil
		ended := c.done || err != nil
		c.changed.Broadcast()
		c.mu.Unlock()
		if ended {
			return
		}
	}
}

func (c *refClient) once() (*agentv1.ExecExit, *agentv1.ExecError, error) {
	conn := c.dial()
	defer func() { _ = conn.Close() }()
	c.mu.Lock()
	c.conn = conn
	c.mu.Unlock()
	payload, err := proto.Marshal(c.start)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := conn.Write(stream.Append(nil, stream.Start, payload)); err != nil {
		return nil, nil, err
	}
	return c.receive(conn)
}

func (c *refClient) receive(conn net.Conn) (*agentv1.ExecExit, *agentv1.ExecError, error) {
	var sender sync.WaitGroup
	defer sender.Wait()
	gone := make(chan struct{})
	defer func() {
		close(gone)
		_ = conn.Close()
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	}()
	r := stream.NewReader(bufio.NewReaderSize(conn, 64<<10))
	for {
		kind, payload, err := r.Next()
		if err != nil {
			return nil, nil, err
		}
		switch kind {
		case stream.Started:
			m := &agentv1.ExecStarted{}
			c.must(proto.Unmarshal(payload, m))
			c.pid = m.Pid
			c.resume(m.StdinReceived)
			if c.onStarted != nil {
				c.onStarted(conn)
			}
			if c.stdin != nil {
				sender.Go(func() { c.sendInput(conn, gone) })
			}
		case stream.Stdout, stream.Stderr:
			c.output(conn, kind, payload)
		case stream.Ack:
			count, err := stream.ParseAck(payload)
			c.must(err)
			c.ack(count)
		case stream.Exit:
			m := &agentv1.ExecExit{}
			c.must(proto.Unmarshal(payload, m))
			return m, nil, nil
		case stream.Error:
			m := &agentv1.ExecError{}
			c.must(proto.Unmarshal(payload, m))
			return nil, m, nil
		default:
			c.t.Errorf("frame of kind %d from the agent", kind)
		}
	}
}

func (c *refClient) must(err error) {
	if err != nil {
		c.t.Error(err)
	}
}

func (c *refClient) output(conn net.Conn, kind stream.Kind, payload []byte) {
	buf := &c.stdout
	if kind == stream.Stderr {
		buf = &c.stderr
	}
	if c.out != nil {
		_, _ = c.out.Write(payload)
	} else {
		buf.Write(payload)
	}
	c.received += uint64(len(payload))
	if c.received-c.ackSent >= stream.AckEvery {
		c.ackSent = c.received
		_, _ = conn.Write(stream.AppendAck(nil, c.received))
	}
}

// resume begins to send at count, which lies in what is kept.
func (c *refClient) resume(count uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin == nil {
		return // another client has sent what there was
	}
	if count < c.acked || count > c.acked+uint64(len(c.kept)) {
		c.t.Errorf("agent has %d bytes of input; acked %d, kept %d", count, c.acked, len(c.kept))
		return
	}
	c.kept = c.kept[count-c.acked:]
	c.acked, c.sent, c.eofSent = count, count, false
}

func (c *refClient) ack(count uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if count < c.acked || count > c.sent {
		c.t.Errorf("ack of %d bytes; acked %d, sent %d", count, c.acked, c.sent)
		return
	}
	c.kept = c.kept[count-c.acked:]
	c.acked = count
	c.changed.Broadcast()
}

// sendInput sends what is kept, and the end, on one connection.
func (c *refClient) sendInput(conn net.Conn, gone chan struct{}) {
	for {
		frame, ok := c.nextFrame(gone)
		if !ok {
			return
		}
		if _, err := conn.Write(frame); err != nil {
			return
		}
	}
}

func (c *refClient) nextFrame(gone chan struct{}) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		select {
		case <-gone:
			return nil, false
		default:
		}
		pending := c.kept[c.sent-c.acked:]
		switch {
		case len(pending) > 0:
			part := pending[:min(len(pending), 100<<10)]
			c.sent += uint64(len(part))
			return stream.Append(nil, stream.Stdin, part), true
		case c.stdinEnd && !c.eofSent:
			c.eofSent = true
			return stream.Append(nil, stream.StdinEOF, nil), true
		}
		c.changed.Wait()
	}
}

func testManager(t *testing.T, o Options) *Manager {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	m := NewManager(o)
	t.Cleanup(m.Close)
	return m
}

// eventually waits for a condition that no event announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in 20 s: %s", what)
		}
	}
}

func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// sh runs a script to its end.
func sh(t *testing.T, m *Manager, script string) (*refClient, *agentv1.ExecExit) {
	t.Helper()
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"sh", "-c", script}})
	exit, failure := c.run()
	if failure != nil {
		t.Fatalf("%s: %v", script, failure)
	}
	return c, exit
}
