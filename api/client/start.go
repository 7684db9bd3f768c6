package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/unixsock"
)

const (
	// startWithin bounds the start of a daemon: it may have VMs to adopt.
	startWithin = 20 * time.Second
	// lookAgain is for a daemon whose socket event was missed, and for a
	// starter that died.
	lookAgain = 200 * time.Millisecond
	// maxLogTail bounds what is read of a failed daemon's log, in bytes.
	maxLogTail = 64 << 10
)

// ErrNotRunning is the cause of the error of a call that was not to start a
// daemon when none runs.
var ErrNotRunning = errors.New("the daemon is not running")

// startError carries our own error through the HTTP client.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// dial connects to the daemon, and starts it if that is wanted and needed.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	mark := trace.Begin(ctx, "dial the daemon")
	conn, err := unixsock.Dial(ctx, c.home.DaemonSocket())
	mark.End()
	if err == nil {
		return conn, nil
	}
	if !notThere(err) {
		return nil, &startError{unusable(c.home, "the daemon is not reachable", err)}
	}
	if !c.autostart {
		return nil, &startError{banger.Errorf(banger.CodeUnavailable, "%w", ErrNotRunning).WithHint("banger daemon start")}
	}
	mark = trace.Begin(ctx, "start the daemon until it answers")
	defer mark.End()
	c.dialing.Lock()
	defer c.dialing.Unlock()
	started, err := start(ctx, c.home)
	if err != nil {
		return nil, &startError{err}
	}
	return started, nil
}

// notThere tells "nobody listens" from an error that starting a daemon would
// not mend.
func notThere(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

// start connects to a daemon of home and starts one if there is none. Of many
// callers at once, one starts it: who holds the start lock.
func start(ctx context.Context, home layout.Home) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startWithin,
		banger.Errorf(banger.CodeUnavailable, "the daemon did not answer within %s", startWithin).WithHint("banger daemon logs"))
	defer cancel()
	if err := os.MkdirAll(home.State, 0o700); err != nil {
		return nil, unusable(home, "the daemon cannot be started", err)
	}
	sock, err := watch(home.State)
	if err != nil {
		return nil, unusable(home, "the daemon cannot be watched as it starts", err)
	}
	defer sock.close()
	for {
		lock, err := lockfile.Try(home.StartLock())
		if err != nil {
			return nil, unusable(home, "the daemon cannot be started", err)
		}
		if lock != nil {
			defer lock.Release()
			return spawn(ctx, home, sock)
		}
		if conn, err := unixsock.Dial(ctx, home.DaemonSocket()); err == nil {
			return conn, nil
		}
		select {
		case <-sock.changed:
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// unusable is the error for a state directory in which a daemon can neither be
// reached nor started: it is somebody else's, read-only, or no directory.
func unusable(home layout.Home, what string, err error) error {
	return banger.Errorf(banger.CodeUnavailable, "%s: %w", what, err).
		WithHint("ls -ld %s, or BANGER_HOME=… to use another directory", home.State)
}

// notStarted is the error for a daemon that ended with last on its log: its own
// next step, if it named one.
func notStarted(last string) error {
	text, hint := banger.SplitText(last)
	if hint == "" {
		hint = "banger daemon logs"
	}
	return banger.Errorf(banger.CodeUnavailable, "the daemon did not start: %s", text).WithHint("%s", hint)
}

// spawn starts bangerd and waits until its socket answers or it ends. The
// caller holds the start lock.
func spawn(ctx context.Context, home layout.Home, sock *watcher) (net.Conn, error) {
	if conn, err := unixsock.Dial(ctx, home.DaemonSocket()); err == nil {
		return conn, nil
	}
	log, err := openLog(home)
	if err != nil {
		return nil, err
	}
	defer log.file.Close()
	daemon, err := launch(log.file)
	if err != nil {
		return nil, err
	}
	// The waiter ends with the daemon, or with us: we do not wait for the
	// daemon's end once it serves.
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	for {
		if conn, err := unixsock.Dial(ctx, home.DaemonSocket()); err == nil {
			return conn, nil
		}
		select {
		case <-sock.changed:
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case err := <-ended:
			if other, _ := lockfile.Try(home.DaemonLock()); other == nil {
				ended = nil // another daemon has the store and is about to listen
				continue
			} else {
				other.Release()
			}
			return nil, notStarted(log.lastLine(err))
		}
	}
}

// daemonLog is the log that a daemon is about to write to.
type daemonLog struct {
	file  *os.File
	start int64 // its size before
}

func openLog(home layout.Home) (*daemonLog, error) {
	file, err := os.OpenFile(home.DaemonLog(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable(home, "the daemon's log cannot be written", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, banger.Errorf(banger.CodeUnavailable, "daemon log: %w", err)
	}
	return &daemonLog{file, info.Size()}, nil
}

// lastLine is the last line that the daemon wrote, or how it ended.
func (l *daemonLog) lastLine(ended error) string {
	start := l.start
	if info, err := l.file.Stat(); err == nil {
		start = max(start, info.Size()-maxLogTail)
	}
	// The offset of the file is the daemon's too; this reads beside it.
	data, _ := io.ReadAll(io.NewSectionReader(l.file, start, maxLogTail))
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if last := strings.TrimPrefix(string(bytes.TrimSpace(lines[len(lines)-1])), "bangerd: "); last != "" {
		return last
	}
	if ended != nil {
		return ended.Error()
	}
	return "it ended at once"
}

// launch runs bangerd in a session of its own, away from the terminal.
func launch(log *os.File) (*exec.Cmd, error) {
	path, err := layout.Companion("bangerd")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = environ(os.Environ())
	if err := cmd.Start(); err != nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "the daemon cannot be started: %w", err).WithHint("make install")
	}
	return cmd, nil
}

// environ makes BANGER_HOME absolute: the daemon's directory is not ours.
func environ(env []string) []string {
	out := make([]string, 0, len(env))
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, layout.HomeVar+"="); ok && value != "" {
			if abs, err := filepath.Abs(value); err == nil {
				kv = layout.HomeVar + "=" + abs
			}
		}
		out = append(out, kv)
	}
	return out
}
