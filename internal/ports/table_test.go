package ports

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

const limit = 20 * time.Second

// address is a loopback address that no other test uses.
func address() netip.Addr { return netip.MustParseAddr("127.77.3.77") }

// newTable is a table whose guest answers each connection with the target that it
// was joined with, and then echoes.
func newTable(t *testing.T, change func(*Options)) *Table {
	t.Helper()
	o := Options{
		Name: "dev.vm", Address: address(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Join: func(_ context.Context, conn *net.TCPConn, to Target) error {
			if to.Port == 9 {
				return errors.New("refused")
			}
			io.WriteString(conn, strings.TrimSuffix(to.Door.String(), "invalid IP")+"\n")
			io.Copy(conn, conn)
			return nil
		},
	}
	if change != nil {
		change(&o)
	}
	table := New(o)
	t.Cleanup(table.Close)
	return table
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", netip.AddrPortFrom(address(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// ask connects, sends a word and returns all that comes back.
func ask(t *testing.T, to netip.AddrPort) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(conn, "hello"); err != nil {
		return "", err
	}
	conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(conn)
	return string(got), err
}

func on(port uint16, pid int32, addr string) Listener {
	return Listener{Port: port, PID: pid, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}
}

func TestForwardsWhatListens(t *testing.T) {
	table := newTable(t, nil)
	port := freePort(t)
	table.Set([]Listener{on(port, 1, "127.0.0.1")}, true)
	if err := table.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, more := table.View()
	if len(list) != 1 || !more || list[0].Host != netip.AddrPortFrom(address(), port) || list[0].Reason != "" {
		t.Fatalf("%+v, more %v", list, more)
	}
	if got, err := ask(t, list[0].Host); got != "127.0.0.1\nhello" {
		t.Errorf("%q, %v", got, err)
	}
	if _, last := table.Connections(); last.IsZero() {
		t.Error("no connection is counted")
	}
	table.Set(nil, false)
	if _, err := ask(t, list[0].Host); err == nil {
		t.Error("what listens no more is still reached")
	}
}

func TestTakenPortGetsAnother(t *testing.T) {
	// On all addresses, as a server of the host has it.
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	table := newTable(t, nil)
	table.Set([]Listener{on(port, 1, "0.0.0.0"), on(port, 2, "127.0.0.53")}, false)
	list, _ := table.View()
	if list[0].Host.Port() == port || !strings.Contains(list[0].Reason, "taken on this host") {
		t.Fatalf("%+v", list[0])
	}
	if got, err := ask(t, list[0].Host); got != "\nhello" {
		t.Errorf("%q, %v", got, err)
	}
	if list[1].Host.IsValid() || !strings.Contains(list[1].Reason, "another socket of the VM, on 0.0.0.0") {
		t.Errorf("the second of a port: %+v", list[1])
	}
}

// TestPrivilegedPort: a number below 1024 is had by who has the right, and else the
// one that is 10,000 higher, for a reason.
func TestPrivilegedPort(t *testing.T) {
	table := newTable(t, nil)
	table.Set([]Listener{on(1001, 1, "0.0.0.0")}, false)
	list, _ := table.View()
	switch p := list[0]; {
	case p.Host.Port() == 1001 && p.Reason == "":
	case p.Host.Port() == 11001 && strings.Contains(p.Reason, "needs a right that you lack"):
	default:
		t.Errorf("%+v", p)
	}
	if got, err := ask(t, list[0].Host); got != "\nhello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAnotherUserIsDropped(t *testing.T) {
	port := freePort(t)
	host := netip.MustParseAddrPort("127.0.0.1:0")
	table := newTable(t, func(o *Options) { o.Publish = []Publish{{host, port}} })
	table.uid++ // so that this test is somebody else
	table.Set([]Listener{on(port, 1, "0.0.0.0")}, false)
	list, _ := table.View()
	if len(list) != 2 || !list[0].Published {
		t.Fatalf("%+v", list)
	}
	if got, err := ask(t, list[0].Host); got != "\nhello" {
		t.Errorf("a published port: %q, %v", got, err)
	}
	if got, err := ask(t, list[1].Host); err == nil || got != "" {
		t.Errorf("another user got %q, %v", got, err)
	}
}

func TestUnreachableGuestIsAReset(t *testing.T) {
	table := newTable(t, func(o *Options) { o.Publish = []Publish{{netip.MustParseAddrPort("127.0.0.1:0"), 9}} })
	list, _ := table.View()
	if got, err := ask(t, list[0].Host); err == nil {
		t.Errorf("got %q and no error", got)
	}
}

func TestPublishedPortThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := l.Addr().(*net.TCPAddr).AddrPort()
	table := newTable(t, func(o *Options) { o.Publish = []Publish{{at, 80}} })
	if list, _ := table.View(); list[0].Host.IsValid() || !strings.Contains(list[0].Reason, "taken") {
		t.Errorf("%+v", list[0])
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	table := newTable(t, func(o *Options) { o.Publish = []Publish{{netip.MustParseAddrPort("127.0.0.1:0"), 80}} })
	list, _ := table.View()
	table.open.Store(maxConnections)
	if got, err := ask(t, list[0].Host); err == nil {
		t.Errorf("one too many got %q", got)
	}
	table.open.Store(0)
}

func TestPeerUID(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A socket of IPv6 that speaks IPv4 is found too.
	for _, to := range []string{l.Addr().String(), "[::ffff:127.0.0.1]:" + l.Addr().String()[len("127.0.0.1:"):]} {
		client, err := net.Dial("tcp", to)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := peerUID(conn.(*net.TCPConn)); err != nil || int(uid) != os.Getuid() {
			t.Errorf("%s: %d, %v", to, uid, err)
		}
		client.Close()
		if uid, err := peerUID(conn.(*net.TCPConn)); err == nil {
			t.Errorf("%s, closed: it is of uid %d", to, uid)
		}
		conn.Close()
	}
}

// FuzzDiagAnswer: the kernel is trusted, but not to answer at length.
func FuzzDiagAnswer(f *testing.F) {
	f.Add(diagQuery(netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")))
	f.Fuzz(func(_ *testing.T, m []byte) { diagUID(m, make([]byte, diagIDLength)) })
}

func TestCloseEndsConnections(t *testing.T) {
	var joined sync.WaitGroup
	joined.Add(1)
	table := newTable(t, func(o *Options) {
		o.Publish = []Publish{{netip.MustParseAddrPort("127.0.0.1:0"), 80}}
		o.Join = func(ctx context.Context, conn *net.TCPConn, _ Target) error {
			joined.Done()
			<-ctx.Done()
			return nil
		}
	})
	list, _ := table.View()
	conn, err := net.Dial("tcp", list[0].Host.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	joined.Wait()
	table.Close()
	table.Set([]Listener{on(80, 1, "0.0.0.0")}, false) // of no effect
	conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the table")
	}
}
