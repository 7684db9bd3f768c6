package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// who prints what must differ between any two VMs, a line each.
const who = `cat /etc/machine-id /proc/sys/kernel/random/uuid
head -c 16 /dev/urandom | od -An -tx1
python3 -c 'import random, uuid; print(random.random(), uuid.uuid4())'
hostname
date +%s`

// TestForksAreStrangers: VMs that were started from one template share nothing
// that tells one from another, and know the time.
func TestForksAreStrangers(t *testing.T) {
	h := newHome(t)
	h.must("image", "warm")
	seen := map[string]bool{}
	for range count("BANGER_SOAK_FORKS", 10) {
		r := h.run("vm", "run", "--rm", "-v", "--", "sh", "-c", who)
		if r.code != 0 || !strings.Contains(r.stderr, "from a template") {
			t.Fatalf("exit %d\n%s", r.code, r.stderr)
		}
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		if len(lines) != 6 {
			t.Fatalf("said %q", r.stdout)
		}
		for _, line := range lines[:5] {
			if seen[line] {
				t.Errorf("two VMs say %q", line)
			}
			seen[line] = true
		}
		now, err := strconv.ParseInt(lines[5], 10, 64)
		if off := time.Now().Unix() - now; err != nil || off < -5 || off > 30 {
			t.Errorf("the guest's clock is %d s behind, %v", off, err)
		}
	}
}

// TestTemplateIsNobodys: what a user's VMs are given is not in a template.
func TestTemplateIsNobodys(t *testing.T) {
	h := newHome(t)
	h.must("image", "warm")
	h.must("vm", "create", "--name", "canary-of-a-name")
	key, err := os.ReadFile(filepath.Join(h.dir, "config", "ssh", "id_ed25519.pub"))
	must(t, err)
	memory, err := filepath.Glob(filepath.Join(cache, "state", "templates", "*", "memory"))
	if err != nil || len(memory) == 0 {
		t.Fatalf("no template's memory: %v", err)
	}
	for _, path := range memory {
		data, err := os.ReadFile(path)
		must(t, err)
		for what, canary := range map[string][]byte{
			"a VM's name": []byte("canary-of-a-name"), "the user's key": bytes.Fields(key)[1], "the user's home": []byte(h.dir),
		} {
			if bytes.Contains(data, canary) {
				t.Errorf("%s: %s is in it", path, what)
			}
		}
	}
}

// TestTemplate: VMs that start from a template are as good as those that boot,
// and no two of them are alike.
func TestTemplate(t *testing.T) {
	h := newHome(t)
	h.ownTemplates(t)
	shape := []string{"--memory", "512M"}
	h.must(append([]string{"image", "warm", "-q"}, shape...)...)
	identity := "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null; id -un"
	seen := map[string]string{}
	for _, name := range []string{"one", "two"} {
		h.must(append([]string{"vm", "create", "--name", name}, shape...)...)
		if began := h.must("vm", "show", name); !strings.Contains(began, "began by:     template") {
			t.Errorf("%s did not start from a template:\n%s", name, began)
		}
		lines := strings.Split(h.must("vm", "exec", name, "--", "sh", "-c", identity), "\n")
		if lines[0] != name || lines[len(lines)-1] != "root" {
			t.Errorf("%s says: %q", name, lines)
		}
		for _, i := range []int{1, 3} { // machine-id, randomness
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
