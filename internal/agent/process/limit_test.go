package process

import (
	"math"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
)

// limited runs a script that has 50 ms.
func limited(t *testing.T, m *Manager, start *agentv1.ExecStart, script string) (*refClient, *agentv1.ExecExit) {
	t.Helper()
	start.Argv, start.TimeLimitMs = []string{"sh", "-c", script}, 50
	c := newClient(t, m, start)
	exit, failure := c.run()
	if failure != nil {
		t.Fatalf("%s: %v", script, failure)
	}
	if exit.Code != CodeTimeOver || !exit.TimeOver || exit.Signal != 0 {
		t.Errorf("%s: %v", script, exit)
	}
	return c, exit
}

func TestTimeLimit(t *testing.T) {
	m := testManager(t, Options{Overtime: 30 * time.Millisecond})
	for name, script := range map[string]string{
		"an obedient command": "exec sleep 1000",
		"one that is deaf":    "trap '' TERM; while :; do sleep 1000; done",
		"a stopped one":       "kill -STOP $$; exit 0",
	} {
		t.Run(name, func(t *testing.T) { limited(t, m, &agentv1.ExecStart{}, script) })
	}
	t.Run("on a terminal", func(t *testing.T) {
		limited(t, m, &agentv1.ExecStart{Tty: true}, "trap '' TERM HUP; sleep 1000; sleep 1000")
	})
	eventually(t, "no record is left", func() bool { return m.count() == 0 })
}

// What a command says and does when it is told to end is heard, but for its exit code.
func TestTimeLimitOfACommandThatCleansUp(t *testing.T) {
	m := testManager(t, Options{})
	c, _ := limited(t, m, &agentv1.ExecStart{}, "trap 'echo cleaned; exit 0' TERM; sleep 1000 & wait")
	if c.stdout.String() != "cleaned\n" {
		t.Errorf("it said %q", c.stdout.String())
	}
}

func TestTimeLimitThatIsNotReached(t *testing.T) {
	m := testManager(t, Options{})
	for _, ms := range []int64{time.Hour.Milliseconds(), math.MaxInt64, 0, -1} {
		c := newClient(t, m, &agentv1.ExecStart{Argv: []string{"sh", "-c", "exit 3"}, TimeLimitMs: ms})
		if exit, failure := c.run(); exit.GetCode() != 3 || exit.GetTimeOver() {
			t.Errorf("%d ms: %v, %v", ms, exit, failure)
		}
	}
}

// It holds also for a command whose client has left, or whose link is broken.
func TestTimeLimitWithoutAClient(t *testing.T) {
	m := testManager(t, Options{Grace: time.Hour, Overtime: 30 * time.Millisecond})
	conn, r, started := attachRaw(t, m, &agentv1.ExecStart{Id: newID(), TimeLimitMs: 300,
		Argv: []string{"sh", "-c", "trap '' HUP TERM; echo deaf; while :; do sleep 1000; done"}}, nil)
	expect(t, r, stream.Stdout)
	_ = conn.Close()
	eventually(t, "it is ended", func() bool { return !alive(int(started.Pid)) })
	eventually(t, "no record is left", func() bool { return m.count() == 0 })
}

// What the command started goes, too: with its cgroup after the rest of the time, and
// without one at once.
func TestTimeLimitOfAFamily(t *testing.T) {
	for _, root := range []string{"", cgroupRoot(t)} {
		m := testManager(t, Options{CgroupRoot: root, Overtime: 200 * time.Millisecond, Quiet: time.Millisecond})
		c, _ := limited(t, m, &agentv1.ExecStart{}, "(trap '' TERM; while :; do sleep 1000; done) & echo $!; exec sleep 1000")
		child, err := strconv.Atoi(strings.TrimSpace(c.stdout.String()))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the child is ended", func() bool { return !runs(child) })
	}
}

// runs reports whether a process is there and no zombie: who reaps what has lost its
// parent is not the manager's to say.
func runs(pid int) bool {
	if !alive(pid) {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
