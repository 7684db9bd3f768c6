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

// TestDamagedTemplate: a VM boots where its template cannot be used, and says
// so.
func TestDamagedTemplate(t *testing.T) {
	h := newHome(t)
	// A template of its own, to damage.
	must(t, os.Remove(filepath.Join(h.dir, "state", "templates")))
	h.must("image", "warm", "--memory", "512M")
	memory, err := filepath.Glob(filepath.Join(h.dir, "state", "templates", "*", "memory"))
	if err != nil || len(memory) != 1 {
		t.Fatalf("templates: %v, %v", memory, err)
	}
	must(t, os.Chmod(memory[0], 0o600))
	must(t, os.Truncate(memory[0], 1<<20))
	r := h.run("vm", "run", "--rm", "-v", "--memory", "512M", "--", "echo", "here")
	if r.code != 0 || r.stdout != "here\n" {
		t.Fatalf("exit %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
	if strings.Contains(r.stderr, "started from a template") || !strings.Contains(r.stderr, "template") {
		t.Errorf("it does not say why it booted:\n%s", r.stderr)
	}
}
