package exec

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/banger-dev/banger/api/client/guestexec"
	"github.com/banger-dev/banger/internal/agent/process"
)

// agent serves the exec door of a process manager on a unix socket.
type agent struct {
	path string
	// next says how many bytes the next connection lives for; nil: for ever.
	next   func() int64
	breaks atomic.Int64
	conns  sync.WaitGroup
}

// serve starts an agent; next may be nil.
func serve(t testing.TB, next func() int64) *agent {
	t.Helper()
	a := &agent{path: filepath.Join(t.TempDir(), "link"), next: next}
	manager := process.NewManager(process.Options{Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("unix", a.path)
	if err != nil {
		t.Fatal(err)
	}
	a.conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := &breakable{Conn: conn, agent: a}
			if a.next != nil {
				c.limited = true
				c.left.Store(a.next())
			}
			a.conns.Go(func() { manager.ServeExec(c, c.broken.Load) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		manager.Close()
		a.conns.Wait()
	})
	return a
}

// dial connects as the command line does.
func (a *agent) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", a.path)
}

var _ guestexec.Dial = (*agent)(nil).dial

// breakable is a link that breaks after so many bytes, in the middle of a frame
// as likely as not.
type breakable struct {
	net.Conn
	agent   *agent
	limited bool
	left    atomic.Int64
	broken  atomic.Bool
}

// spend takes n bytes from what is left; it reports how many may still pass.
func (c *breakable) spend(n int) int {
	if !c.limited {
		return n
	}
	left := c.left.Add(-int64(n))
	if left > 0 {
		return n
	}
	if c.broken.CompareAndSwap(false, true) {
		c.agent.breaks.Add(1)
	}
	return max(n+int(left), 0)
}

func (c *breakable) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if pass := c.spend(n); pass < n {
		c.Conn.Close()
		return pass, net.ErrClosed
	}
	return n, err
}

func (c *breakable) Write(p []byte) (int, error) {
	pass := c.spend(len(p))
	n, err := c.Conn.Write(p[:pass])
	if err == nil && pass < len(p) {
		c.Conn.Close()
		return n, net.ErrClosed
	}
	return n, err
}

// random returns a source of link lifetimes, the same for the same seed.
func random(seed uint64, most int64) func() int64 {
	source := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	return func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return 1 + source.Int64N(most)
	}
}
