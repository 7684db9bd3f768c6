package process

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// terminal starts a script on a terminal.
func terminal(t *testing.T, script string) (*screen, net.Conn) {
	t.Helper()
	m := testManager(t, Options{})
	conn, r, _ := attachRaw(t, m, &agentv1.ExecStart{
		Id: newID(), Argv: []string{"sh", "-c", script}, Tty: true, Stdin: true,
		Size: &agentv1.WindowSize{Rows: 24, Cols: 80},
	}, nil)
	return &screen{t: t, r: r}, conn
}

// screen collects what a terminal shows.
type screen struct {
	t    *testing.T
	r    *stream.Reader
	text string
}

// until reads until text has come, and forgets what lies before its end.
func (s *screen) until(text string) {
	s.t.Helper()
	for !strings.Contains(s.text, text) {
		s.text += string(expect(s.t, s.r, stream.Stdout))
	}
	_, s.text, _ = strings.Cut(s.text, text)
}

func (s *screen) exit() *agentv1.ExecExit {
	s.t.Helper()
	for {
		kind, payload, err := s.r.Next()
		if err != nil {
			s.t.Fatal(err)
		}
		if kind == stream.Exit {
			exit := &agentv1.ExecExit{}
			_ = proto.Unmarshal(payload, exit)
			return exit
		}
		s.text += string(payload)
	}
}

func send(t *testing.T, conn net.Conn, kind stream.Kind, payload []byte) {
	t.Helper()
	if _, err := conn.Write(stream.Append(nil, kind, payload)); err != nil {
		t.Fatal(err)
	}
}

func TestTerminalResize(t *testing.T) {
	s, conn := terminal(t, `tty; stty size; trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.01; done`)
	s.until("/dev/pts/")
	s.until("24 80")
	s.until("ready")
	size, _ := proto.Marshal(&agentv1.WindowSize{Rows: 50, Cols: 132})
	send(t, conn, stream.Resize, size)
	s.until("50 132")
	if exit := s.exit(); exit.Code != 6 {
		t.Errorf("%v", exit)
	}
}

func TestTerminalKeys(t *testing.T) {
	s, conn := terminal(t, `trap 'echo interrupted' INT; echo ready; cat; echo "cat: $?"; read x; echo "line $x"; cat; echo end`)
	s.until("ready")
	send(t, conn, stream.Stdin, []byte("echoed\n"))
	s.until("echoed\r\nechoed\r\n")
	send(t, conn, stream.Stdin, []byte{3}) // Ctrl-C reaches the foreground process
	s.until("cat: 130")
	send(t, conn, stream.Stdin, []byte("hello\n"))
	s.until("line hello")
	send(t, conn, stream.Stdin, []byte("unfinished"))
	send(t, conn, stream.StdinEOF, nil)
	s.until("end\r\n")
	if exit := s.exit(); exit.Code != 0 {
		t.Errorf("%v", exit)
	}
}

func TestTerminalSignalReachesTheForeground(t *testing.T) {
	s, conn := terminal(t, `set -m; sh -c 'echo ready; exec sleep 1000'; echo "status $?"`)
	s.until("ready")
	signal, _ := proto.Marshal(&agentv1.ExecSignal{Signal: int32(syscall.SIGTERM)})
	send(t, conn, stream.Signal, signal)
	s.until("status 143")
	if exit := s.exit(); exit.Code != 0 {
		t.Errorf("%v", exit)
	}
}

func TestTerminalKeepsAllOutput(t *testing.T) {
	m := testManager(t, Options{})
	for range 20 {
		c := newClient(t, m, &agentv1.ExecStart{
			Argv: []string{"sh", "-c", "stty -opost </dev/tty; head -c 300000 /dev/zero; echo last"}, Tty: true,
		})
		if exit, _ := c.run(); exit.GetCode() != 0 || c.received != 300005 || !strings.HasSuffix(c.stdout.String(), "last\n") {
			t.Fatalf("%v, %d bytes", exit, c.received)
		}
	}
}

func TestTerminalThatIsLetGo(t *testing.T) {
	s, _ := terminal(t, `echo on; exec </dev/null >/dev/null 2>&1; sleep 0.1; exit 8`)
	s.until("on")
	if exit := s.exit(); exit.Code != 8 {
		t.Errorf("%v", exit)
	}
}

func TestTerminalClientLeft(t *testing.T) {
	m := testManager(t, Options{})
	conn, r, started := attachRaw(t, m, &agentv1.ExecStart{
		Id: newID(), Argv: []string{"bash", "-ic", "echo ready; sleep 1000; sleep 1000"}, Tty: true, Stdin: true,
	}, nil)
	(&screen{t: t, r: r}).until("ready")
	_ = conn.Close()
	eventually(t, "the shell ends", func() bool { return !alive(int(started.Pid)) })
}

func TestTerminalModes(t *testing.T) {
	m := testManager(t, Options{})
	p, err := m.Start(Spec{User: strconv.Itoa(os.Getuid()),
		Argv: []string{"stty", "-a"}, Stdin: true,
		Terminal: &Terminal{Rows: 10, Cols: 20, Modes: map[uint8]uint32{3: 8, 53: 0, 38: 0, 1: 255, 200: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := p.Copy(&out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"erase = ^H", "-echo ", "-ixon", "intr = <undef>", "iutf8", "rows 10"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %s", want, out.String())
		}
	}
}

// cgroupRoot makes a cgroup for a test, where the machine allows it.
func cgroupRoot(t *testing.T) string {
	t.Helper()
	for _, base := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(base, "cgroup.controllers")); err != nil {
			continue
		}
		dir, err := os.MkdirTemp(base, "banger-test-")
		if err == nil {
			t.Cleanup(func() {
				if err := os.Remove(dir); err != nil {
					t.Errorf("cgroup is left: %v", err)
				}
			})
			return dir
		}
	}
	return ""
}

func TestCgroups(t *testing.T) {
	root := cgroupRoot(t)
	if root == "" {
		return // no cgroup v2 that may be written here
	}
	m := testManager(t, Options{CgroupRoot: root, Grace: 1, Quiet: 1})
	c, _ := sh(t, m, "cat /proc/self/cgroup")
	if !strings.Contains(c.stdout.String(), filepath.Base(root)+"/cmd1") {
		t.Errorf("the command ran in %s", c.stdout.String())
	}
	// A process that left its group and ignores SIGHUP ends with its cgroup.
	conn, r, _ := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), Argv: []string{"sh", "-c",
		"trap '' HUP; setsid sleep 1000 & echo ready; wait; sleep 1000"}}, nil)
	expect(t, r, stream.Stdout)
	_ = conn.Close()
	eventually(t, "all but the next command's cgroup is gone", func() bool {
		m.cgroups.release(nil)
		m.cgroups.mu.Lock()
		defer m.cgroups.mu.Unlock()
		left, err := filepath.Glob(filepath.Join(root, "cmd*"))
		return err == nil && m.cgroups.ahead != nil && slices.Equal(left, []string{m.cgroups.ahead.path})
	})
}

func TestCgroupThatCannotBeMade(t *testing.T) {
	m := testManager(t, Options{CgroupRoot: "/nonexistent"})
	if _, exit := sh(t, m, "exit 3"); exit.Code != 3 {
		t.Errorf("%v", exit)
	}
}
