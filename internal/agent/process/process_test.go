package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/agent/account"
)

func TestExitCodes(t *testing.T) {
	m := testManager(t, Options{})
	for script, want := range map[string]int32{
		"true": 0, "exit 7": 7, "kill -9 $$": 137, "kill -TERM $$": 143, "nosuchcommand": 127,
	} {
		if _, exit := sh(t, m, script); exit.Code != want {
			t.Errorf("%s: exit code %d, want %d", script, exit.Code, want)
		}
	}
}

func TestStreamsApart(t *testing.T) {
	m := testManager(t, Options{})
	c, _ := sh(t, m, "echo out; echo err >&2; echo out2")
	if c.stdout.String() != "out\nout2\n" || c.stderr.String() != "err\n" {
		t.Errorf("stdout %q, stderr %q", c.stdout.String(), c.stderr.String())
	}
}

func TestStartErrors(t *testing.T) {
	m := testManager(t, Options{})
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "echo hi\n", 0o644)
	broken := write("broken", "\x00\x01\x02", 0o755)
	orphan := write("orphan", "#!/nonexistent/interpreter\n", 0o755)
	for _, test := range []struct {
		start *agentv1.ExecStart
		code  string
	}{
		{&agentv1.ExecStart{Argv: []string{"nosuchcommand"}}, CodeNotFound},
		{&agentv1.ExecStart{Argv: []string{"/nosuch/command"}}, CodeNotFound},
		{&agentv1.ExecStart{Argv: []string{""}}, CodeNotFound},
		{&agentv1.ExecStart{Argv: []string{orphan}}, CodeNotFound},
		{&agentv1.ExecStart{Argv: []string{plain}}, CodeNotExecutable},
		{&agentv1.ExecStart{Argv: []string{broken}}, CodeNotExecutable},
		{&agentv1.ExecStart{Argv: []string{"/tmp"}}, CodeNotExecutable},
		{&agentv1.ExecStart{Argv: []string{"plain"}, Env: []string{"PATH=" + dir}}, CodeNotExecutable},
		{&agentv1.ExecStart{Argv: []string{"ls"}, Env: []string{"PATH=/nonexistent"}}, CodeNotFound},
		{&agentv1.ExecStart{Argv: []string{"true"}, Cwd: "/nonexistent"}, CodeNoCwd},
		{&agentv1.ExecStart{Argv: []string{"true"}, Cwd: "/etc/passwd"}, CodeNoCwd},
		{&agentv1.ExecStart{Argv: []string{"true"}, User: "nobody", Cwd: "/root"}, CodeNoCwd},
		{&agentv1.ExecStart{Argv: []string{"true"}, User: "no-such-user"}, CodeNoUser},
		{&agentv1.ExecStart{Argv: []string{"true"}, User: "root:no-such-group"}, CodeNoUser},
		{&agentv1.ExecStart{}, CodeInvalid},
		{&agentv1.ExecStart{Argv: []string{"true"}, Shell: true}, CodeInvalid},
		{&agentv1.ExecStart{Argv: []string{"true", "a\x00b"}}, CodeInvalid},
		{&agentv1.ExecStart{Argv: []string{"true"}, Env: []string{"NOVALUE"}}, CodeInvalid},
		{&agentv1.ExecStart{Argv: []string{"true"}, Id: []byte("short")}, CodeInvalid},
		{&agentv1.ExecStart{Argv: []string{"true"}, JoinOnly: true}, CodeGone},
		{&agentv1.ExecStart{Argv: []string{"true"}, Received: 5}, CodeGone},
		{&agentv1.ExecStart{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, CodeLimit},
	} {
		_, failure := newClient(t, m, test.start).run()
		if failure.GetCode() != test.code {
			t.Errorf("%v: %v, want %s", test.start.Argv, failure, test.code)
		}
	}
}

func TestScriptWithoutInterpreter(t *testing.T) {
	m := testManager(t, Options{})
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, []byte("echo \"got $1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, m, &agentv1.ExecStart{Argv: []string{path, "this"}})
	if exit, _ := c.run(); exit.GetCode() != 0 || c.stdout.String() != "got this\n" {
		t.Errorf("%v, %q", exit, c.stdout.String())
	}
}

func TestLimit(t *testing.T) {
	m := testManager(t, Options{Most: 1})
	p, err := m.Start(Spec{User: strconv.Itoa(os.Getuid()), Argv: []string{"cat"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, failure := newClient(t, m, &agentv1.ExecStart{Argv: []string{"true"}}).run(); failure.GetCode() != CodeLimit {
		t.Errorf("second command: %v", failure)
	}
	p.CloseInput()
	if exit := p.Wait(); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	if _, exit := sh(t, m, "true"); exit.Code != 0 {
		t.Errorf("exit %v", exit)
	}
}

func TestUserAndEnvironment(t *testing.T) {
	dir := t.TempDir()
	line := fmt.Sprintf("tester:x:%d:%d::%s:/bin/sh\n", os.Getuid(), os.Getgid(), dir)
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	m := testManager(t, Options{Users: account.Database(dir)})
	c := newClient(t, m, &agentv1.ExecStart{
		Argv: []string{"sh", "-c", `echo "$HOME $USER $LOGNAME $EXTRA"; pwd`},
		Env:  []string{"EXTRA=more"}, User: "tester",
	})
	c.run()
	if got := c.stdout.String(); got != dir+" tester tester more\n"+dir+"\n" {
		t.Errorf("got %q", got)
	}
}

func TestLoginShell(t *testing.T) {
	dir := t.TempDir()
	line := fmt.Sprintf("tester:x:%d:%d::/:/nonexistent/shell\n", os.Getuid(), os.Getgid())
	if err := os.WriteFile(filepath.Join(dir, "passwd"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	m := testManager(t, Options{Users: account.Database(dir)})
	c := newClient(t, m, &agentv1.ExecStart{Shell: true, Stdin: true, User: "tester"})
	c.stdin = strings.NewReader("echo \"$0\"; exit 11\n")
	if exit, failure := c.run(); exit.GetCode() != 11 || c.stdout.String() != "-sh\n" {
		t.Errorf("%v %v %q", exit, failure, c.stdout.String())
	}
}

func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // an ordinary user cannot become another
	}
	m := testManager(t, Options{})
	c := newClient(t, m, &agentv1.ExecStart{
		Argv: []string{"sh", "-c", "id -u; id -g; id -G; pwd; echo again >/dev/stdout"}, User: "nobody",
	})
	c.run()
	if got := c.stdout.String(); got != "65534\n65534\n65534\n/\nagain\n" {
		t.Errorf("%q %q", got, c.stderr.String())
	}
	c = newClient(t, m, &agentv1.ExecStart{Argv: []string{"id", "-G"}, User: "1234:daemon"})
	c.run()
	if got := c.stdout.String(); got != "1\n" {
		t.Errorf("%q %q", got, c.stderr.String())
	}
}

// The agent's timers are slack (package boot), its commands' are not.
func TestTimersAreExact(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(time.Millisecond), 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	p, err := testManager(t, Options{}).Start(Spec{Argv: []string{"cat", "/proc/self/timerslack_ns"}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := p.Copy(&out, &out); err != nil || out.String() != "50000\n" {
		t.Errorf("%q %v", out.String(), err)
	}
	p.Leave()
}
