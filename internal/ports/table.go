package ports

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// maxConnections bounds what is open at once of one VM.
const maxConnections = 1024

// Publish leads a port of the host to one of the guest.
type Publish struct {
	Host  netip.AddrPort
	Guest uint16
}

// Options are what a Table needs.
type Options struct {
	// Name is what the VM is called on the host, for probes: "dev.vm".
	Name string
	// Address is the VM's own on the host; invalid: none, and only what is
	// published is forwarded.
	Address netip.Addr
	Publish []Publish
	// Join connects conn with the guest and returns when that is over. An error
	// says that the guest could not be reached; then nothing was read from conn.
	// The caller closes conn.
	Join func(ctx context.Context, conn *net.TCPConn, to Target) error
	// Dial connects to the guest, for a probe.
	Dial func(ctx context.Context, to Target) (net.Conn, error)
	Log  *slog.Logger
}

// Table is where the ports of one VM are reached. Its methods may be called from
// any goroutine.
type Table struct {
	Options
	uid    uint32
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	open atomic.Int32
	last atomic.Int64 // Unix time in milliseconds

	mu        sync.Mutex // guards what follows
	closed    bool
	published []*forward
	// forwards are those of the VM's address, by the guest's port.
	forwards map[uint16]*forward
	list     []Listener
	more     bool
	// verdicts are what probes have found about the sockets of list.
	verdicts map[verdictKey]string
	// heard is closed when the guest has said something.
	heard chan struct{}
}

// forward is one listening socket of the host.
type forward struct {
	listener *net.TCPListener // nil where nothing could be bound
	host     netip.AddrPort
	guest    uint16
	// reason is why it is not what was wanted.
	reason    string
	published bool
}

// New makes a table and opens what is published. The caller must Close it.
func New(o Options) *Table {
	ctx, cancel := context.WithCancel(context.Background())
	t := &Table{
		Options: o, uid: uint32(os.Getuid()), ctx: ctx, cancel: cancel,
		forwards: map[uint16]*forward{}, verdicts: map[verdictKey]string{}, heard: make(chan struct{}),
	}
	for _, p := range o.Publish {
		f := &forward{host: p.Host, guest: p.Guest, published: true}
		l, err := listen(p.Host)
		if err != nil {
			f.reason = bindReason(p.Host, err)
			o.Log.Warn("a published port cannot be opened", "port", p.Host, "error", err)
		} else {
			t.start(f, l)
		}
		t.published = append(t.published, f)
	}
	return t
}

// Set takes what listens in the guest now, as Decode gives it: ports are opened
// and closed after it. Connections that are open stay.
func (t *Table) Set(list []Listener, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.list, t.more = list, more
	wanted, verdicts := map[uint16]bool{}, map[verdictKey]string{}
	for _, l := range list {
		wanted[l.Port] = true
		if v, ok := t.verdicts[l.key()]; ok {
			verdicts[l.key()] = v
		}
	}
	t.verdicts = verdicts
	for port, f := range t.forwards {
		if !wanted[port] {
			f.stop()
			delete(t.forwards, port)
		}
	}
	if t.Address.IsValid() {
		for port := range wanted {
			if t.forwards[port] == nil {
				t.forwards[port] = t.bind(port)
			}
		}
	}
	select {
	case <-t.heard:
	default:
		close(t.heard)
	}
}

// bind opens the port of the VM's address, or another one where that cannot be.
func (t *Table) bind(port uint16) *forward {
	f := &forward{guest: port}
	var first error
	for _, number := range candidates(port) {
		l, err := listen(netip.AddrPortFrom(t.Address, number))
		if err == nil {
			t.start(f, l)
			break
		}
		if first == nil {
			first = err
			f.reason = bindReason(netip.AddrPortFrom(t.Address, port), err)
		}
	}
	if f.listener == nil {
		t.Log.Warn("a port of the guest is not reached", "port", port, "error", first)
	}
	return f
}

// candidates are the numbers tried for a port of the guest, the last of which is
// any that is free. They are the same each time, so that a successor finds them.
func candidates(port uint16) []uint16 {
	list := []uint16{port}
	for _, shift := range []int{10000, 20000} {
		if n := int(port) + shift; n <= 65535 {
			list = append(list, uint16(n))
		}
	}
	return append(list, 0)
}

func listen(at netip.AddrPort) (*net.TCPListener, error) {
	network := "tcp4"
	if at.Addr().Is6() {
		network = "tcp6"
	}
	return net.ListenTCP(network, net.TCPAddrFromAddrPort(at))
}

// start accepts on l for f until it is stopped.
func (t *Table) start(f *forward, l *net.TCPListener) {
	f.listener = l
	f.host = l.Addr().(*net.TCPAddr).AddrPort()
	t.work.Go(func() { t.accept(f) })
}

func (f *forward) stop() {
	if f.listener != nil {
		f.listener.Close()
	}
}

// Pauses after an accept that failed, as where no descriptor is free.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = time.Second
)

func (t *Table) accept(f *forward) {
	for pause := firstPause; ; {
		conn, err := f.listener.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			select {
			case <-time.After(pause):
			case <-t.ctx.Done():
				return
			}
			pause = min(2*pause, lastPause)
			continue
		}
		pause = firstPause
		t.work.Go(func() { t.serve(f, conn) })
	}
}

// serve joins one connection with the guest. One that may not be, or cannot, ends
// with a reset.
func (t *Table) serve(f *forward, conn *net.TCPConn) {
	defer t.open.Add(-1)
	defer conn.Close()
	if t.open.Add(1) > maxConnections || !f.published && !t.ours(conn) {
		_ = conn.SetLinger(0)
		return
	}
	t.last.Store(time.Now().UnixMilli())
	if err := t.Join(t.ctx, conn, t.target(f.guest)); err != nil {
		_ = conn.SetLinger(0)
		t.Log.Debug("a connection does not reach the guest", "port", f.guest, "error", err)
	}
}

// ours reports whether a connection is of this VM's user.
func (t *Table) ours(conn *net.TCPConn) bool {
	uid, err := peerUID(conn)
	if err == nil && uid == t.uid {
		return true
	}
	t.Log.Info("a connection of another user is dropped", "to", conn.LocalAddr(), "uid", uid, "error", err)
	return false
}

// target is the way to a port of the guest, also where nothing is known to listen.
func (t *Table) target(port uint16) Target {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(t.list, func(l Listener) bool { return l.Port == port })
	if i < 0 {
		return Target{Port: port, Stack: true}
	}
	return t.list[i].Target()
}

// Await returns when the guest has said what listens in it, or with ctx's cause.
func (t *Table) Await(ctx context.Context) error {
	select {
	case <-t.heard:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Connections is how many are open, and when the last one began; zero: none did.
func (t *Table) Connections() (open int, last time.Time) {
	if ms := t.last.Load(); ms != 0 {
		last = time.UnixMilli(ms)
	}
	return int(t.open.Load()), last
}

// Close ends everything and waits for it.
func (t *Table) Close() {
	t.mu.Lock()
	t.closed = true
	for _, f := range t.published {
		f.stop()
	}
	for _, f := range t.forwards {
		f.stop()
	}
	t.mu.Unlock()
	t.cancel()
	t.work.Wait()
}
