package guest

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/image"
)

// debian is the base of the default image, with systemd.
func debian(t *testing.T) string {
	t.Helper()
	store := image.New(image.Options{Home: cached(t), Log: slog.Default()})
	i, err := store.Ensure(t.Context(), "debian-bookworm", silent)
	must(t, err)
	return i.Base()
}

// bare is an image of busybox alone, with things in /root.
func bare(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	tree := filepath.Join(dir, "tree")
	for _, d := range []string{"bin", "root/a/b"} {
		must(t, os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	run(t, "cp", busybox, filepath.Join(tree, "bin/busybox"))
	for _, name := range []string{"sh", "cat", "sleep", "poweroff", "reboot", "kill", "ls", "stat", "hostname", "mount", "sync", "grep", "readlink", "ip", "yes", "head", "ps", "trap", "touch", "date", "df"} {
		must(t, os.Symlink("busybox", filepath.Join(tree, "bin", name)))
	}
	must(t, os.WriteFile(filepath.Join(tree, "root/a/big"), make([]byte, 1<<20), 0o600))
	must(t, os.WriteFile(filepath.Join(tree, "root/a/file"), []byte("from the image\n"), 0o640))
	must(t, os.Link(filepath.Join(tree, "root/a/file"), filepath.Join(tree, "root/a/b/twin")))
	must(t, os.Symlink("a/file", filepath.Join(tree, "root/link")))
	path := filepath.Join(dir, "base.ext4")
	makeDisk(t, path, tree)
	return path
}

func TestBareImage(t *testing.T) {
	m := newMachine(t, bare(t))
	m.start()
	agent := m.answer()
	t.Logf("agent %v", time.Since(m.started))
	if event := settled(t, agent); event.SystemState != "running" {
		t.Errorf("system state %q", event.SystemState)
	}
	info, err := agent.Info(bounded(t), &agentv1.InfoRequest{})
	must(t, err)
	t.Logf("info %v", info)
	if info.Init != "none" || info.Ready != "system" || info.Pid == 1 {
		t.Errorf("info %v", info)
	}
	m.checkIdentity()
	m.expect("cat /root/a/file /root/a/b/twin", "from the image\nfrom the image")
	m.expect("readlink /root/link; stat -c '%a %h' /root/a/file", "a/file\n640 2")
	m.expect("cat /proc/self/cgroup | grep -c banger/cmd", "1")
}

// checkIdentity checks what Boot said.
func (m *machine) checkIdentity() {
	m.t.Helper()
	m.expect("cat /proc/sys/kernel/hostname /etc/hostname", "otter\notter")
	m.expect("cat /etc/machine-id", strings.Repeat("ab", 16))
	m.expect("cat /etc/resolv.conf", "nameserver 192.168.127.1")
	m.expect("grep -c otter /etc/hosts", "1")
	m.expect("ip -4 addr show dev eth0 | grep -o 'inet [0-9./]*'; ip route | grep -c '^default via 192.168.127.1'", "inet 192.168.127.2/24\n1")
}

func TestDebianImage(t *testing.T) {
	m := newMachine(t, debian(t))
	m.start()
	agent := m.answer()
	t.Logf("agent after %v", time.Since(m.started))
	m.checkIdentity() // before systemd is done
	event := settled(t, agent)
	t.Logf("system after %v", time.Since(m.started))
	if event.SystemState != "running" {
		t.Errorf("system state %v", event)
	}
	m.expect("cat /proc/1/comm", "systemd")
	// The agent and its commands are nobody's to end.
	m.expect("systemctl daemon-reexec && systemctl daemon-reload && cat /proc/1/comm", "systemd")
	m.expect("cat /proc/self/cgroup | grep -c banger/cmd", "1")
	m.checkIdentity()
	m.expect("stat -f -c %T /root /var/lib/docker /", "ext2/ext3\next2/ext3\noverlayfs")
}

func TestDegradedIsReady(t *testing.T) {
	m := newMachine(t, debian(t))
	m.start()
	agent := m.answer()
	settled(t, agent)
	m.expect("printf '[Service]\\nExecStart=/bin/false\\n[Install]\\nWantedBy=multi-user.target\\n' >/etc/systemd/system/sad.service && systemctl enable -q sad", "")
	m.stop(agent)
	m.start()
	event := settled(t, m.answer())
	if event.SystemState != "degraded" || !slices.Equal(event.FailedUnits, []string{"sad.service"}) {
		t.Errorf("got %v", event)
	}
}

// stop shuts the VM down and checks its disks.
func (m *machine) stop(agent agentv1.AgentClient) {
	m.t.Helper()
	_, err := agent.Shutdown(bounded(m.t), &agentv1.ShutdownRequest{})
	must(m.t, err)
	m.gone()
	m.clean()
}
