package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/boot"
	"github.com/banger-dev/banger/internal/agent/identity"
	"github.com/banger-dev/banger/internal/agent/process"
	"github.com/banger-dev/banger/internal/agent/service"
	"github.com/banger-dev/banger/internal/agent/sshd"
	"github.com/banger-dev/banger/internal/linkwire"
	"google.golang.org/protobuf/proto"
)

// guest serves the streams of the guest link. Until it has an identity it
// serves none.
type guest struct {
	rpc       *service.Service
	random    *identity.Random
	processes *process.Manager
	log       *slog.Logger

	// applied is the last message; only Boot uses it, which is called by one
	// goroutine.
	applied []byte

	mu sync.Mutex
	// identified tells PID 1 to go on; nil when it has been told.
	identified *os.File
	known      bool
	boot       *agentv1.Boot
	ssh        *sshd.Server
	// late is to be done before a stream is served; nil: nothing.
	late *settling

	// online is closed when the root is complete and the network has been set up,
	// or could not be. Until then no command is run.
	online chan struct{}
	// network is what was set up last, serialised; nil when that failed.
	network atomic.Pointer[[]byte]
	// setup is the goroutine that sets the network up for the first time; it
	// ends with ctx.
	ctx   context.Context
	setup sync.WaitGroup
}

// cardTime bounds the wait for the network card.
const cardTime = 10 * time.Second

// Boot implements link.Handler.
func (g *guest) Boot(payload []byte) {
	// The host rings with one message until it is heard, so the same one may
	// come again; one for another moment differs in its time at least.
	if len(payload) == 0 || bytes.Equal(payload, g.applied) {
		return
	}
	g.applied = bytes.Clone(payload)
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(payload, boot); err != nil {
		g.log.Error("boot message is not readable", "cause", err)
		return
	}
	apply, late := g.ways(boot)
	err := apply(boot, g.random)
	g.failed(err)
	if errors.Is(err, identity.ErrNotOwn) {
		return
	}
	select {
	case <-g.online:
		g.connect(boot.Network)
	default: // Started does it: the driver is loaded after the first answer
	}
	g.rpc.SetTemplate(boot.Template)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot, g.ssh, g.known, g.late = boot, nil, true, late
}

// settling is what is left to do of a Boot behind the answer to it.
type settling struct {
	boot  *agentv1.Boot
	heard time.Time
	done  chan struct{} // closed when it is, or could not be
}

// ways is how boot is applied, and what is left of it for later.
func (g *guest) ways(boot *agentv1.Boot) (apply func(*agentv1.Boot, *identity.Random) error, late *settling) {
	g.mu.Lock()
	defer g.mu.Unlock()
	copied := g.known && g.boot.Template && !boot.Template
	// A doorbell may have been given up before all was done.
	if !copied && g.late == nil {
		return identity.Apply, nil
	}
	return identity.Resume, &settling{boot: boot, heard: time.Now(), done: make(chan struct{})}
}

// connect sets the network up. A copy of a guest has that of its original
// already.
func (g *guest) connect(n *agentv1.Network) {
	if n == nil {
		return
	}
	// Compared as bytes: proto.Equal costs a copy that just woke 3 ms.
	wanted, err := proto.Marshal(n)
	if set := g.network.Load(); err == nil && set != nil && bytes.Equal(*set, wanted) {
		return
	}
	g.network.Store(nil)
	ctx, cancel := context.WithTimeout(g.ctx, cardTime)
	defer cancel()
	if err := identity.ApplyNetwork(ctx, n); err != nil {
		g.log.Error("no network", "cause", err)
		return
	}
	g.network.Store(&wanted)
}

// Started implements link.Handler. PID 1 goes on from here, and not already
// when the identity is applied: the image's init takes the processor for
// seconds, and the host waits for an answer.
func (g *guest) Started() {
	g.settle()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.known || g.identified == nil {
		return
	}
	_, _ = g.identified.Write([]byte{1})
	g.identified.Close()
	g.identified = nil
	network := g.boot.Network
	g.setup.Go(func() {
		defer close(g.online)
		if err := boot.AwaitComplete(g.ctx); err != nil {
			g.log.Error("commands run as things are", "cause", err)
		}
		g.connect(network)
	})
	g.rpc.Identified()
}

// settle does what is left to do of a Boot.
func (g *guest) settle() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.late == nil {
		return
	}
	err := identity.Settle(g.late.boot, g.late.heard)
	g.failed(err)
	g.known = g.known && !errors.Is(err, identity.ErrNotOwn)
	close(g.late.done)
	g.late = nil
}

// failed says what could not be done of a Boot.
func (g *guest) failed(err error) {
	switch {
	case errors.Is(err, identity.ErrNotOwn):
		g.log.Error("this guest takes no commands", "cause", err)
	case err != nil:
		g.log.Error("identity is not complete", "cause", err)
	}
}

// awaitSettled returns when nothing of a Boot is left to do.
func (g *guest) awaitSettled() {
	g.mu.Lock()
	late := g.late
	g.mu.Unlock()
	if late != nil {
		<-late.done
	}
}

// Stream implements link.Handler.
func (g *guest) Stream(conn net.Conn, port uint32, broken func() bool) {
	g.awaitSettled()
	if !g.serves(port) {
		abort(conn)
		return
	}
	if port == linkwire.PortRPC {
		g.rpc.Serve(conn)
		return
	}
	<-g.online
	switch port {
	case linkwire.PortExec:
		g.processes.ServeExec(conn, broken)
	case linkwire.PortSSH:
		g.serveSSH(conn)
	case linkwire.PortForward:
		forward(conn)
	default:
		abort(conn)
	}
}

// serves reports whether port is open: none before the guest knows who it is,
// and only that of the Agent service while it is nobody's.
func (g *guest) serves(port uint32) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known && (!g.boot.Template || port == linkwire.PortRPC)
}

func (g *guest) serveSSH(conn net.Conn) {
	server, err := g.sshServer()
	if err != nil {
		g.log.Error("cannot serve ssh", "cause", err)
		abort(conn)
		return
	}
	server.Serve(conn)
}

// sshServer makes the server when it is first needed: reading its keys takes
// time that the first command should not wait for.
func (g *guest) sshServer() (*sshd.Server, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ssh != nil {
		return g.ssh, nil
	}
	server, err := sshd.New(sshd.Options{
		HostKey:        g.boot.SshHostKey,
		AuthorizedKeys: g.boot.SshAuthorizedKeys,
		Manager:        g.processes,
		Log:            g.log,
	})
	if err == nil {
		g.ssh = server
	}
	return server, err
}

// abort ends a stream so that the host sees an error, not an end of file.
func abort(conn net.Conn) {
	if s, ok := conn.(linkwire.MuxStream); ok {
		s.Reset()
		return
	}
	conn.Close()
}
