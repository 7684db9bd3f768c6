package script

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// session is banger on a terminal of its own.
type session struct {
	t    *testing.T
	cmd  *exec.Cmd
	ptmx *os.File
	// mode is the terminal's mode before banger ran.
	mode unix.Termios

	mu     sync.Mutex
	more   *sync.Cond
	screen strings.Builder
	closed bool
	reader sync.WaitGroup
}

func open(t *testing.T, home string, args ...string) *session {
	t.Helper()
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	pty.Setsize(ptmx, &pty.Winsize{Rows: 30, Cols: 90})
	s := &session{t: t, ptmx: ptmx, mode: termios(t, ptmx)}
	s.more = sync.NewCond(&s.mu)
	s.cmd = exec.Command("banger", args...)
	s.cmd.Env = append(os.Environ(), "BANGER_HOME="+home, "TERM=xterm", "GORACE=atexit_sleep_ms=0")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.reader.Go(s.read)
	t.Cleanup(func() {
		s.ptmx.Close()
		s.reader.Wait()
	})
	return s
}

func (s *session) read() {
	lines := bufio.NewReader(s.ptmx)
	for {
		b, err := lines.ReadByte()
		s.mu.Lock()
		if err != nil {
			s.closed = true
		} else {
			s.screen.WriteByte(b)
		}
		s.more.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await waits until text is on the screen.
func (s *session) await(text string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.mu.Lock(); s.closed = true; s.mu.Unlock(); s.more.Broadcast() })
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !strings.Contains(s.screen.String(), text) {
		if s.closed {
			s.t.Fatalf("%q is not on the screen:\n%s", text, s.screen.String())
		}
		s.more.Wait()
	}
}

func (s *session) kind(text string) { io.WriteString(s.ptmx, text) }

// end waits for banger's end and wants the terminal as it was.
func (s *session) end(code int) {
	s.t.Helper()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d; the screen:\n%s", got, code, s.screen.String())
	}
	if now := termios(s.t, s.ptmx); now != s.mode {
		s.t.Errorf("the terminal's mode is %+v, was %+v", now, s.mode)
	}
}

// isRaw reports whether keys reach banger one by one.
func (s *session) isRaw() bool { return termios(s.t, s.ptmx).Lflag&unix.ICANON == 0 }

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *mode
}

// newHome is a BANGER_HOME whose daemon ends with the test.
func newHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	t.Cleanup(func() { stopDaemon(home) })
	return home
}

func TestShellOnATerminal(t *testing.T) {
	s := open(t, newHome(t), "run", "--name", "dev", "--", "sh", "-c", "stty size; trap 'stty size' WINCH; while :; do read x || continue; echo got:$x; test $x = bye && exit 5; done")
	s.await("30 90")
	if !s.isRaw() {
		t.Error("the terminal is not in raw mode")
	}
	s.kind("hello\r")
	s.await("got:hello")
	pty.Setsize(s.ptmx, &pty.Winsize{Rows: 31, Cols: 91})
	s.await("31 91")
	s.kind("bye\r")
	s.await(`vm "dev" is still running (stop: banger vm stop dev)`)
	s.end(5)
}

// Ctrl-C is the guest's, and so is the end by it.
func TestInterruptOnATerminal(t *testing.T) {
	s := open(t, newHome(t), "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
	s.await("ready")
	s.kind("\x03")
	s.end(130)
	if strings.Contains(s.screen.String(), "still running") {
		t.Error("a reminder, for a VM that is gone")
	}
}

func TestSignalsRestoreTheTerminal(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		s := open(t, newHome(t), "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
		s.await("ready")
		s.cmd.Process.Signal(sig)
		s.end(128 + int(sig))
	}
}

// The agent that goes away in mid-session leaves a usable terminal.
func TestLostGuestRestoresTheTerminal(t *testing.T) {
	home := newHome(t)
	s := open(t, home, "run", "--", "sh", "-c", "echo ready; exec sleep 1000")
	s.await("ready")
	stopDaemon(home)
	s.await("banger: ")
	s.end(125)
}
