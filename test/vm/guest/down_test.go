package guest

import (
	"os"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/linkwire"
)

// send runs a command that takes the VM down: no answer is waited for.
func (m *machine) send(script string) {
	m.t.Helper()
	conn, err := m.link.Dial(bounded(m.t), linkwire.PortExec)
	must(m.t, err)
	go func() {
		exec1(conn, script)
		conn.Close()
	}()
}

// TestEveryWayDown: whichever way a VM goes down, what was written is there,
// and both disks are clean.
func TestEveryWayDown(t *testing.T) {
	ask := func(reboot bool) func(*machine, agentv1.AgentClient) {
		return func(m *machine, agent agentv1.AgentClient) {
			_, err := agent.Shutdown(bounded(m.t), &agentv1.ShutdownRequest{Reboot: reboot})
			must(m.t, err)
		}
	}
	say := func(script string) func(*machine, agentv1.AgentClient) {
		return func(m *machine, _ agentv1.AgentClient) { m.send(script) }
	}
	debianBase, bareBase := debian(t), bare(t)
	for _, way := range []struct {
		name, base string
		down       func(*machine, agentv1.AgentClient)
	}{
		{"bare/agent", bareBase, ask(false)},
		{"bare/agent reboot", bareBase, ask(true)},
		{"bare/poweroff", bareBase, say("poweroff")},
		{"bare/reboot", bareBase, say("reboot")},
		{"bare/SIGTERM", bareBase, say("kill -TERM 1")},
		{"bare/SIGINT", bareBase, say("kill -INT 1")},
		{"bare/SIGPWR", bareBase, say("kill -PWR 1")},
		{"debian/agent", debianBase, ask(false)},
		{"debian/agent reboot", debianBase, ask(true)},
		{"debian/poweroff", debianBase, say("systemctl poweroff")},
		{"debian/reboot", debianBase, say("systemctl reboot")},
		{"debian/halt", debianBase, say("systemctl halt")},
		{"debian/at once", debianBase, ask(false)},
	} {
		t.Run(way.name, func(t *testing.T) {
			m := newMachine(t, way.base)
			m.start()
			agent := m.answer()
			if !strings.HasSuffix(way.name, "at once") { // that one: before systemd is up
				settled(t, agent)
			}
			m.expect("echo kept >/root/kept; echo kept >/etc/kept; cat /root/kept", "kept")
			at := time.Now()
			way.down(m, agent)
			m.gone()
			t.Logf("down after %v", time.Since(at))
			m.clean()
			m.start()
			m.answer()
			m.expect("cat /root/kept /etc/kept", "kept\nkept")
		})
	}
}

func TestFilesOutliveABoot(t *testing.T) {
	m := newMachine(t, bare(t))
	m.start()
	agent := m.answer()
	m.expect("echo mine >/root/a/file; rm /root/link; echo '10.0.0.1 mine' >>/etc/hosts; sync", "")
	m.stop(agent)
	m.start()
	m.answer()
	m.expect("cat /root/a/file; ls /root", "mine\na")
	m.expect("grep -c mine /etc/hosts; grep -c otter /etc/hosts", "1\n1")
}

// TestProcessesEnd: a process that wants to gets time to end, and one that does
// not is killed; orphans are reaped meanwhile.
func TestProcessesEnd(t *testing.T) {
	m := newMachine(t, bare(t))
	m.start()
	agent := m.answer()
	m.expect("(trap 'sleep 1; echo tidy >/root/tidy; exit' TERM; while :; do sleep 0.1; done) </dev/null >/dev/null 2>&1 & true", "")
	m.expect("(trap '' TERM; while :; do sleep 0.1; done) </dev/null >/dev/null 2>&1 & true", "")
	m.expect("(sleep 0.2 &) </dev/null >/dev/null 2>&1; sleep 1; ps -o stat | grep ^Z; true", "")
	m.stop(agent)
	m.start()
	m.answer()
	m.expect("cat /root/tidy", "tidy")
}

// TestFatalErrors: each is a line on the console, and the VM ends.
func TestFatalErrors(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*machine)
		// answers says that it comes to light only after the agent's answer.
		answers bool
		say     string
	}{
		"overlay disk is no ext4": {
			func(m *machine) { must(m.t, os.WriteFile(m.file("overlay.ext4"), make([]byte, 1<<20), 0o600)) },
			false, "banger: cannot mount the overlay disk (/dev/vdb): invalid argument",
		},
		"work disk is too small": {
			func(m *machine) {
				os.Remove(m.file("work.ext4"))
				must(m.t, os.WriteFile(m.file("work.ext4"), nil, 0o600))
				run(m.t, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", m.file("work.ext4"), "512K")
			},
			true, "banger: cannot fill the work disk from the image's /root: ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, bare(t))
			c.spoil(m)
			m.start()
			if c.answers {
				must(t, m.link.Reset(bounded(t), identity()))
			}
			m.gone()
			if !strings.Contains(m.console(), c.say) {
				t.Errorf("console:\n%s", m.console())
			}
		})
	}
}

// TestAgentKilled: nobody can reach the VM any more, so it ends, in words.
func TestAgentKilled(t *testing.T) {
	m := newMachine(t, bare(t))
	m.start()
	m.answer()
	m.send("kill -KILL $PPID")
	m.gone()
	if !strings.Contains(m.console(), "banger: the agent ended: signal 9") {
		t.Errorf("console:\n%s", m.console())
	}
	m.clean()
}
