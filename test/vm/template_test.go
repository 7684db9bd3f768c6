package vm

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestTemplate: VMs that start from a template are as good as those that boot,
// and no two of them are alike.
func TestTemplate(t *testing.T) {
	h := newHome(t)
	h.ownTemplates(t)
	shape := []string{"--memory", "512M", "--disk-size", "3G", "--system-overlay-size", "5G"}
	h.must(append([]string{"image", "warm", "-q"}, shape...)...)
	identity := "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null; id -un"
	seen := map[string]string{}
	for _, name := range []string{"one", "two"} {
		h.must(append([]string{"vm", "create", "--name", name}, shape...)...)
		if began := h.must("vm", "show", name); !strings.Contains(began, "began by:     template") {
			t.Errorf("%s did not start from a template:\n%s", name, began)
		}
		h.checkNoTCP(t, name)
		h.checkSize(t, name, "/", 5<<30)
		h.checkSize(t, name, "/root", 3<<30)
		lines := strings.Split(h.must("vm", "exec", name, "--", "sh", "-c", identity), "\n")
		if lines[0] != name || lines[len(lines)-1] != "root" {
			t.Errorf("%s says: %q", name, lines)
		}
		for _, i := range []int{1, 3} { // machine-id, randomness; the boot is one
			if other := seen[lines[i]]; other != "" {
				t.Errorf("%s and %s are alike: %q", name, other, lines[i])
			}
			seen[lines[i]] = name
		}
	}
	// They need the template no more, and stop and boot on their own disks.
	h.must("vm", "exec", "one", "--", "sh", "-c", "echo kept > /root/file; echo kept > /etc/file")
	h.must("template", "prune", "--all")
	h.must("vm", "stop", "one")
	if r := h.run("vm", "start", "-v", "one"); r.code != 0 || !strings.Contains(r.stderr, "booted: it has run before") {
		t.Errorf("start: exit %d, %s", r.code, r.stderr)
	}
	if text := h.must("vm", "exec", "one", "--", "cat", "/root/file", "/etc/file"); text != "kept\nkept" {
		t.Errorf("its files are %q", text)
	}
	if text := h.must("vm", "exec", "two", "--", "cat", "/etc/hostname"); text != "two" {
		t.Errorf("the other one says %q", text)
	}
}

// checkNoTCP: the counters of a guest are those of its template, too. A connection
// there would have made the secret that sequence numbers are drawn from, which
// new entropy does not change.
func (h *home) checkNoTCP(t *testing.T, name string) {
	t.Helper()
	lines := strings.Split(h.must("vm", "exec", name, "--", "grep", "^Tcp:", "/proc/net/snmp"), "\n")
	if len(lines) != 2 {
		t.Fatalf("%s counts %q", name, lines)
	}
	names, values := strings.Fields(lines[0]), strings.Fields(lines[1])
	found := 0
	for i, what := range names {
		if what == "ActiveOpens" || what == "PassiveOpens" || what == "InSegs" || what == "OutSegs" {
			found++
			if values[i] != "0" {
				t.Errorf("%s has %s of TCP, want 0: %s", name, what, values[i])
			}
		}
	}
	if found != 4 {
		t.Errorf("%s counts only %q", name, names)
	}
}

// checkSize: what df says of a file system is what was asked for, but for what
// ext4 needs itself.
func (h *home) checkSize(t *testing.T, name, path string, asked int64) {
	t.Helper()
	text := h.must("vm", "exec", name, "--", "sh", "-c", "df -B1 --output=size "+path+" | tail -1")
	size, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || size > asked || size < asked-asked/10 {
		t.Errorf("%s of %s has %q bytes, want %d (%v)", path, name, text, asked, err)
	}
}

// TestDamagedTemplate: it costs nothing but the boot, which says why, and is not
// used again.
func TestDamagedTemplate(t *testing.T) {
	for _, file := range []string{"devices", "memory"} {
		t.Run(file, func(t *testing.T) {
			h := newHome(t)
			h.ownTemplates(t)
			key := h.must("image", "warm", "-q", "--memory", "512M")
			path := filepath.Join(h.dir, "state", "templates", key, file)
			must(t, os.Chmod(path, 0o600))
			must(t, os.Truncate(path, 1000))
			r := h.run("vm", "run", "-v", "--rm", "--memory", "512M", "--", "sh", "-c", "echo here; exit 7")
			if r.code != 7 || r.stdout != "here\n" || !strings.Contains(r.stderr, "booted: the template could not be used: ") {
				t.Errorf("exit %d, %q\n%s", r.code, r.stdout, r.stderr)
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("the damaged template is still there")
			}
		})
	}
}

// ownTemplates has h share no templates with other homes: what it makes may be
// damaged and pruned.
func (h *home) ownTemplates(t *testing.T) {
	t.Helper()
	must(t, os.Remove(filepath.Join(h.dir, "state", "templates")))
}
