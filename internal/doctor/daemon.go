package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/leftover"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/unixsock"
)

// askTime bounds the wait for a daemon's answer.
const askTime = 3 * time.Second

func (e *examiner) stateDir() {
	info, err := os.Stat(e.Home.State)
	if errors.Is(err, fs.ErrNotExist) {
		e.ok("state directory", "%s is made at first use", e.Home.State)
		return
	}
	if err != nil {
		e.add(Fail, "state directory", "", "%v", err)
		return
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(st.Uid) != os.Getuid():
		e.add(Fail, "state directory", "sudo chown -R $(id -u) "+e.Home.State, "%s belongs to somebody else", e.Home.State)
	case info.Mode().Perm()&0o077 != 0:
		e.add(Warn, "state directory", "chmod 700 "+e.Home.State, "%s is open to others (%v)", e.Home.State, info.Mode().Perm())
	default:
		e.ok("state directory", "%s", e.Home.State)
	}
}

// daemon asks a running one who it is; none is started.
func (e *examiner) daemon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, e.Home.DaemonSocket())
	}}
	defer transport.CloseIdleConnections()
	client := bangerv1connect.NewBangerClient(&http.Client{Transport: transport}, "http://bangerd")
	response, err := client.Status(ctx, connect.NewRequest(&bangerv1.StatusRequest{}))
	if err != nil {
		if e.daemonRuns() {
			e.add(Fail, "daemon", "banger daemon restart", "it runs and does not answer: %v", err)
			return
		}
		e.ok("daemon", "not running; it starts with the first command that needs it")
		return
	}
	status, build := response.Msg, banger.BuildStamp()
	e.status = status
	if theirs := (banger.Build{Version: status.Build.GetVersion(), Commit: status.Build.GetCommit()}); theirs.String() != build.String() {
		e.add(Warn, "daemon", "banger daemon restart", "pid %d is of another build: %s, this is %s", status.Pid, theirs, build)
		return
	}
	e.ok("daemon", "pid %d, build %s, %d VMs adopted", status.Pid, build, status.VmsAdopted)
}

// daemonRuns reports whether somebody holds the daemon's lock.
func (e *examiner) daemonRuns() bool {
	if _, err := os.Stat(e.Home.DaemonLock()); err != nil {
		return false
	}
	lock, err := lockfile.Try(e.Home.DaemonLock())
	if err != nil {
		return false
	}
	if lock == nil {
		return true
	}
	lock.Release()
	return false
}

// leftovers looks for what belongs to no VM, and with Repair removes it. With
// no daemon running its lock is held meanwhile, so that none starts.
func (e *examiner) leftovers(ctx context.Context) {
	db, done, err := e.openStore()
	if err != nil {
		fix := ""
		if known, ok := errors.AsType[*banger.Error](err); ok {
			fix = known.Hint
			err = errors.New(known.Message)
		}
		e.add(Fail, "store", fix, "%v", err)
		return
	}
	defer done()
	found, err := leftover.Find(ctx, e.Home, db, e.ours)
	if err != nil {
		e.add(Warn, "leftovers", "", "they cannot be looked for: %v", err)
		return
	}
	if e.daemonRuns() {
		found = slices.DeleteFunc(found, func(l leftover.Leftover) bool { return l.Spare })
	}
	found = append(found, leftover.Templates(e.Home, e.ours)...)
	found = append(found, leftover.Builds(e.Home, e.Log)...)
	if len(found) == 0 {
		e.unfinished(ctx, db)
		return
	}
	if e.Repair {
		e.remove(ctx, found)
		return
	}
	e.add(Warn, "leftovers", "banger doctor --repair", "%s", list(found))
}

// openStore opens the store if there is one, and keeps a daemon from starting.
func (e *examiner) openStore() (db *store.Store, done func(), err error) {
	if _, err := os.Stat(e.Home.Store()); err != nil {
		return nil, func() {}, nil
	}
	lock, err := lockfile.Try(e.Home.DaemonLock())
	if err != nil {
		return nil, nil, err
	}
	release := func() {
		if lock != nil {
			lock.Release()
		}
	}
	db, err = store.Open(e.Home.Store(), e.Log)
	if err != nil {
		release()
		return nil, nil, err
	}
	return db, func() { db.Close(); release() }, nil
}

func (e *examiner) remove(ctx context.Context, found []leftover.Leftover) {
	var failed []string
	for _, l := range found {
		if err := l.Remove(ctx); err != nil {
			failed = append(failed, l.String()+": "+err.Error())
		}
	}
	if len(failed) > 0 {
		e.add(Fail, "leftovers", "", "not removed: %s", strings.Join(failed, "; "))
		return
	}
	e.ok("leftovers", "removed: %s", list(found))
}

// unfinished says what the next start of the daemon has to finish.
func (e *examiner) unfinished(ctx context.Context, db *store.Store) {
	if db == nil || e.daemonLives() {
		e.ok("leftovers", "none")
		return
	}
	ops, err := db.Operations(ctx)
	if err == nil && len(ops) > 0 {
		e.add(Warn, "leftovers", "banger daemon start", "%d operations were broken off; the daemon finishes or undoes them when it starts", len(ops))
		return
	}
	e.ok("leftovers", "none")
}

// daemonLives is daemonRuns for who may hold the lock himself.
func (e *examiner) daemonLives() bool {
	for _, c := range e.report.Checks {
		if c.Name == "daemon" {
			return strings.HasPrefix(c.Found, "pid ") || c.Status == Fail
		}
	}
	return false
}

// ours accepts the programs that a VM consists of.
func (e *examiner) ours(program string) bool {
	return program == layout.Supervisor || strings.HasPrefix(program, "qemu-system-") ||
		(e.cfg.QEMUBin != "" && program == filepath.Base(e.cfg.QEMUBin))
}

// maxListed bounds how many leftovers one line names.
const maxListed = 10

func list(found []leftover.Leftover) string {
	var names []string
	for _, l := range found[:min(len(found), maxListed)] {
		names = append(names, l.String())
	}
	if more := len(found) - len(names); more > 0 {
		names = append(names, "and more")
	}
	return strings.Join(names, ", ")
}
