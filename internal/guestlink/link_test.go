package guestlink_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/agent/link"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/linkwire"
	"golang.org/x/sys/unix"
)

// pair returns both ends of a unix socket.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

// vmm stands between a link and a guest as QEMU does: each connection of the
// host replaces the one before, while the guest keeps its port. Bytes on the
// way at a change arrive stale, or not at all.
type vmm struct {
	guest net.Conn // the VMM's end of the guest's port

	mu   sync.Mutex
	host net.Conn
}

func newVMM(t *testing.T) (*vmm, net.Conn) {
	port, guest := pair(t)
	v := &vmm{guest: guest}
	go v.outward()
	return v, port
}

// outward copies what the guest writes to whoever is connected.
func (v *vmm) outward() {
	buf := make([]byte, 32<<10)
	for {
		n, err := v.guest.Read(buf)
		if err != nil {
			return
		}
		v.mu.Lock()
		host := v.host
		v.mu.Unlock()
		if host != nil {
			host.Write(buf[:n])
		}
	}
}

// connect is what Endpoints call.
func (v *vmm) connect(t *testing.T) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		near, far := pair(t)
		v.mu.Lock()
		old := v.host
		v.host = far
		v.mu.Unlock()
		if old != nil {
			old.Close()
		}
		go io.Copy(v.guest, far)
		return near, nil
	}
}

// echo is a guest that counts its boots, echoes port 1025 and floods on 1027.
type echo struct {
	boots atomic.Int32
	// ended, if there is one, gets broken() at the end of each echo.
	ended chan bool
}

func (e *echo) Boot([]byte) { e.boots.Add(1) }

func (e *echo) Started() {}

func (e *echo) Stream(conn net.Conn, port uint32, broken func() bool) {
	defer conn.Close()
	switch port {
	case linkwire.PortExec:
		io.Copy(conn, conn)
		if e.ended != nil {
			e.ended <- broken()
		}
	case linkwire.PortForward:
		count(conn)
	}
}

// count writes numbers, so that a reader notices a lost or stale byte.
func count(w io.Writer) {
	buf := make([]byte, 0, 32<<10)
	for i := uint64(0); ; {
		buf = buf[:0]
		for len(buf) < cap(buf) {
			buf = binary.LittleEndian.AppendUint64(buf, i)
			i++
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

// checkCount reads numbers until r fails, and reports whether all were right.
func checkCount(conn io.Reader, read *atomic.Int64) bool {
	r, buf := bufio.NewReaderSize(conn, 64<<10), make([]byte, 8)
	for i := uint64(0); ; i++ {
		if _, err := io.ReadFull(r, buf); err != nil {
			return true
		}
		if binary.LittleEndian.Uint64(buf) != i {
			return false
		}
		read.Add(8)
	}
}

type rig struct {
	link      *guestlink.Link
	guest     *echo
	ctl, data *vmm
	ports     [2]net.Conn
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{guest: &echo{}}
	r.ctl, r.ports[0] = newVMM(t)
	r.data, r.ports[1] = newVMM(t)
	r.link = r.newLink(t)
	return r
}

// newLink is a supervisor's link to this VM.
func (r *rig) newLink(t *testing.T) *guestlink.Link {
	l := guestlink.New(guestlink.Endpoints{Ctl: r.ctl.connect(t), Data: r.data.connect(t)}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { l.Close() })
	return l
}

// serve starts the guest's agent.
func (r *rig) serve(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s := link.NewServer(r.ports[0], r.ports[1], r.guest, slog.New(slog.DiscardHandler))
	go func() { defer close(done); s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func mustDial(t *testing.T, l *guestlink.Link, port uint32) net.Conn {
	t.Helper()
	conn, err := l.Dial(bounded(t), port)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// roundTrip proves that the session works.
func roundTrip(t *testing.T, l *guestlink.Link) {
	t.Helper()
	conn := mustDial(t, l, linkwire.PortExec)
	defer conn.Close()
	want := bytes.Repeat([]byte("banger "), 40_000)
	go func() {
		conn.Write(want)
		conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("echoed %d bytes of %d: %v", len(got), len(want), err)
	}
}

func TestNoSession(t *testing.T) {
	r := newRig(t)
	if _, err := r.link.Dial(bounded(t), linkwire.PortRPC); !errors.Is(err, driver.ErrNoSession) {
		t.Fatalf("got %v", err)
	}
	select {
	case <-r.link.Broken():
	default:
		t.Fatal("Broken is open without a session")
	}
}

func TestResetWaitsForAnAgentThatComesLater(t *testing.T) {
	r := newRig(t)
	done := make(chan error, 1)
	go func() { done <- r.link.Reset(bounded(t), []byte("boot")) }()
	// Two rings at least stand in the channel when the agent opens it.
	waitFor(t, func() bool { return pending(t, r.ports[0]) > 2*64 })
	r.serve(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	roundTrip(t, r.link)
}

// pending is the number of bytes that conn has not been asked for.
func pending(t *testing.T, conn net.Conn) int {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n
}

// waitFor yields until cond holds; the test's own deadline bounds it.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	ctx := bounded(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatal("condition never held")
		case <-tick.C:
		}
	}
}

func TestResetEndsWithItsContext(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("given up")
	go func() {
		waitFor(t, func() bool { return pending(t, r.ports[0]) > 0 })
		cancel(why)
	}()
	if err := r.link.Reset(ctx, nil); !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
}

// load is the verdicts on one session's traffic, which come when it has ended.
type load chan bool

func check(t *testing.T, loads []load) {
	t.Helper()
	for _, verdicts := range loads {
		for range cap(verdicts) {
			if !<-verdicts {
				t.Error("a byte was lost or stale")
			}
		}
	}
}

// resetAndLoad resets l and loads it both ways with checked counters, and
// leaves with everything in flight.
func resetAndLoad(t *testing.T, l *guestlink.Link) load {
	t.Helper()
	if err := l.Reset(bounded(t), []byte("boot")); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, l)
	var read atomic.Int64
	in, out := mustDial(t, l, linkwire.PortForward), mustDial(t, l, linkwire.PortExec)
	verdicts := make(load, 2)
	go func() { verdicts <- checkCount(in, &read) }()
	go func() { verdicts <- checkCount(out, &read) }()
	go count(out)
	waitFor(t, func() bool { return read.Load() > 1<<20 })
	return verdicts
}

func TestSuccessorOfAKilledSupervisor(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	var loads []load
	var last *guestlink.Link
	for range 50 {
		// No Close: the one before vanishes with its connections, which the
		// VMM ends when the next one connects.
		last = r.newLink(t)
		loads = append(loads, resetAndLoad(t, last))
	}
	last.Close()
	check(t, loads)
}

func TestGuestKnowsABrokenSessionFromAClosedStream(t *testing.T) {
	r := newRig(t)
	r.guest.ended = make(chan bool)
	r.serve(t)
	if err := r.link.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	left := mustDial(t, r.link, linkwire.PortExec)
	go count(left)
	io.ReadFull(left, make([]byte, 1<<10))
	left.Close()
	if <-r.guest.ended {
		t.Error("a closed stream was taken for a broken session")
	}
	stays := mustDial(t, r.link, linkwire.PortExec)
	stays.Write([]byte("x"))
	io.ReadFull(stays, make([]byte, 1))
	broken := r.link.Broken()
	if err := r.link.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	if !<-r.guest.ended {
		t.Error("a broken session was taken for a closed stream")
	}
	<-broken
	if _, err := stays.Read(make([]byte, 1)); err == nil {
		t.Error("a stream of the old session still reads")
	}
}

func TestStreamsAreBounded(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	if err := r.link.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	for {
		conn, err := r.link.Dial(bounded(t), linkwire.PortExec)
		if err != nil {
			if banger.CodeOf(err) != banger.CodeUnavailable {
				t.Fatal(err)
			}
			break
		}
		conns = append(conns, conn)
	}
	if len(conns) != 512 {
		t.Errorf("%d streams", len(conns))
	}
	conns[0].Close()
	conns[1].Close()
	roundTrip(t, r.link)
}

func TestClose(t *testing.T) {
	r := newRig(t)
	r.serve(t)
	if err := r.link.Reset(bounded(t), nil); err != nil {
		t.Fatal(err)
	}
	r.link.Close()
	<-r.link.Broken()
	if err := r.link.Reset(bounded(t), nil); err == nil {
		t.Error("a closed link was reset")
	}
}
