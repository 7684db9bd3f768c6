package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/unixsock"
)

// fullForMemory is why a QEMU died of SIGBUS whose memory is in a file: the file
// system has no block for a page that it wrote.
const fullForMemory = "no space is left on the host for its memory"

// QEMU prints next to nothing, unless its guest finds a way to make it. Its log
// is looked at every logCheck, and emptied when it is over maxLog bytes.
const (
	maxLog   = 4 << 20
	logCheck = 30 * time.Second
)

// parts are what an instance is made of.
type parts struct {
	proc    *vmmproc.Process
	private private
	monitor net.Conn
}

// instance implements driver.Instance.
type instance struct {
	dir     layout.Instance
	machine driver.Machine
	log     *slog.Logger
	proc    *vmmproc.Process
	private private
	monitor *qmp
	link    *guestlink.Link
	moved   chan string   // how a migration ended
	joined  chan struct{} // somebody has joined the network

	released sync.Once
	stop     chan struct{} // closed by Release
	watched  chan struct{} // watchLog has returned

	mu       sync.Mutex
	shutdown string // the reason of QEMU's SHUTDOWN event
	full     bool   // a disk could not be written: the host has no space
}

func newInstance(ctx context.Context, m driver.Machine, log *slog.Logger, p parts) (*instance, error) {
	dir := layout.Instance(m.Dir)
	i := &instance{
		dir: dir, machine: m, log: log, proc: p.proc, private: p.private,
		moved: make(chan string, 1), joined: make(chan struct{}, 1),
		stop: make(chan struct{}), watched: make(chan struct{}),
	}
	var err error
	if i.monitor, err = newQMP(ctx, p.monitor, i.event); err != nil {
		return nil, cause(ctx, err)
	}
	i.link = guestlink.New(guestlink.Endpoints{Ctl: dial(dir.GuestCtl()), Data: dial(dir.GuestData())}, log)
	go i.watchLog()
	return i, nil
}

func dial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return connect(ctx, path) }
}

// connect returns no typed nil.
func connect(ctx context.Context, path string) (net.Conn, error) {
	conn, err := unixsock.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// event is called for each event of the monitor.
func (i *instance) event(name string, data json.RawMessage) {
	switch name {
	case "SHUTDOWN", "MIGRATION":
	case "BLOCK_IO_ERROR":
		i.diskError(data)
		return
	case "NETDEV_STREAM_CONNECTED":
		select {
		case i.joined <- struct{}{}:
		default: // nobody waits for it
		}
		return
	default:
		return
	}
	var event struct {
		Reason string `json:"reason"` // of a shutdown
		Status string `json:"status"` // of a migration
	}
	if err := json.Unmarshal(data, &event); err != nil {
		i.log.Warn("QEMU's monitor", "event", name, "err", err)
		return
	}
	if name == "SHUTDOWN" {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.shutdown = event.Reason
		return
	}
	switch event.Status {
	case migrated, "failed", "cancelled":
		select {
		case i.moved <- event.Status:
		default: // nobody asked for so many
		}
	}
}

// diskError ends a guest that is to be frozen when the host has no space for what
// it writes: QEMU has stopped it, and whoever waits for it would do so for long.
// Any other guest stands still until there is space.
func (i *instance) diskError(data json.RawMessage) {
	var event struct {
		NoSpace bool `json:"nospace"`
	}
	if err := json.Unmarshal(data, &event); err != nil || !event.NoSpace || !i.private.Freezable {
		return
	}
	i.mu.Lock()
	i.full = true
	i.mu.Unlock()
	if err := i.proc.Strike(); err != nil {
		i.log.Error("a guest that has no space is not ended", "err", err)
	}
}

// watchLog keeps the log small.
func (i *instance) watchLog() {
	defer close(i.watched)
	ticker := time.NewTicker(logCheck)
	defer ticker.Stop()
	for {
		select {
		case <-i.stop:
			return
		case <-i.proc.Done():
			return
		case <-ticker.C:
		}
		if st, err := os.Stat(i.dir.VMMLog()); err == nil && st.Size() > maxLog {
			i.log.Warn("QEMU prints a lot: its log is emptied", "bytes", st.Size())
			if err := os.Truncate(i.dir.VMMLog(), 0); err != nil {
				i.log.Error("empty QEMU's log", "err", err)
			}
		}
	}
}

// Run implements driver.Instance.
func (i *instance) Run(ctx context.Context) error {
	mark := trace.From(ctx).BeginOf(Name, i.proc.PID(), "cont")
	defer mark.End()
	return i.monitor.do(ctx, "cont", nil)
}

var _ driver.Pauser = (*instance)(nil)

// Pause implements driver.Pauser.
func (i *instance) Pause(ctx context.Context) error { return i.monitor.do(ctx, "stop", nil) }

// Link implements driver.Instance.
func (i *instance) Link() driver.Link { return i.link }

// Network implements driver.Instance.
func (i *instance) Network(ctx context.Context) (net.Conn, error) {
	return connect(ctx, i.dir.GuestNet())
}

// Console implements driver.Instance.
func (i *instance) Console(ctx context.Context) (io.ReadCloser, error) {
	return connect(ctx, i.dir.GuestConsole())
}

// Kill implements driver.Instance.
func (i *instance) Kill(ctx context.Context) error {
	mark := trace.From(ctx).BeginOf(Name, i.proc.PID(), "killed until it is gone")
	defer mark.End()
	return i.proc.Kill(ctx)
}

// Wait implements driver.Instance.
func (i *instance) Wait(ctx context.Context) (driver.Exit, error) {
	if err := i.proc.Wait(ctx); err != nil {
		return driver.Exit{}, err
	}
	// What QEMU said last is read before its connection ends.
	<-i.monitor.done
	return i.exit(), nil
}

// exit says how QEMU ended. The reason it gave is one of a known set or none:
// it may have been broken into.
func (i *instance) exit() driver.Exit {
	i.mu.Lock()
	shutdown, full := i.shutdown, i.full
	i.mu.Unlock()
	switch {
	case full:
		return driver.Exit{Reason: "no space is left on the host for its disks"}
	case i.private.Freezable && i.proc.Signal() == unix.SIGBUS:
		return driver.Exit{Reason: fullForMemory}
	case shutdown == "guest-shutdown":
		return driver.Exit{Clean: true, Reason: "guest powered off"}
	case shutdown == "guest-reset":
		return driver.Exit{Reason: "guest restarted itself or panicked (its console says which)"}
	case shutdown == "guest-panic":
		return driver.Exit{Reason: "guest panicked"}
	case i.proc.Killed():
		return driver.Exit{Reason: "powered off"}
	case shutdown == "host-signal":
		return driver.Exit{Reason: "QEMU was told to end by a signal"}
	}
	reason := "QEMU: " + i.proc.Reason()
	if last := lastWords(i.dir.VMMLog(), 1); last != "" {
		reason += ": " + last
	}
	return driver.Exit{Reason: reason}
}

// Info implements driver.Instance.
func (i *instance) Info() driver.Info {
	return driver.Info{
		PID: i.proc.PID(), Driver: Name, Accel: i.private.Accel,
		Confinement: slices.Clone(i.private.Confinement),
	}
}

// Release implements driver.Instance.
func (i *instance) Release() (err error) {
	i.released.Do(func() {
		close(i.stop)
		<-i.watched
		i.monitor.close()
		err = errors.Join(i.link.Close(), i.proc.Release())
	})
	return err
}
