package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// forkMemory keeps many VMs at once small, in MiB.
const forkMemory = "512"

// who prints what must differ between any two VMs, a line each with its name, and
// then the time.
const who = `echo "hostname $(hostname)"
echo "machine-id $(cat /etc/machine-id)"
echo "kernel-uuid $(cat /proc/sys/kernel/random/uuid)"
echo "urandom $(head -c 16 /dev/urandom | od -An -tx1)"
echo "random $(head -c 16 /dev/random | od -An -tx1)"
python3 -c '
import os, random, secrets, uuid
print("getrandom", os.getrandom(16).hex())
print("python-random", random.random())
print("python-secret", secrets.token_hex(16))
print("python-uuid", uuid.uuid4())
'
if command -v openssl >/dev/null; then echo "openssl $(openssl rand -hex 16)"; fi
echo "time $(date +%s)"`

// TestForksAreStrangers: VMs that were started from one template and live beside
// each other share nothing that tells one from another, know the time, and are
// deleted together.
func TestForksAreStrangers(t *testing.T) {
	h := newHome(t)
	h.must("image", "warm", "--memory", forkMemory)
	names := h.fork(count("BANGER_SOAK_FORKS", 8))
	seen := make(map[string]string)
	for _, name := range names {
		said := "spec-id " + h.show(name).ID + "\n" + h.must("vm", "exec", name, "--", "sh", "-c", who)
		checkStranger(t, seen, name, said)
	}
	checkHostKeys(t, h, names)
	for _, name := range names {
		if v := h.show(name); v.State != "running" {
			t.Errorf("%s is %s beside the others: %s", name, v.State, v.Reason)
		}
	}
	h.must(append([]string{"vm", "delete", "--force"}, names...)...)
	if left := h.must("vm", "list", "--all", "-q"); left != "" {
		t.Errorf("after they were deleted: %s", left)
	}
}

// fork creates n VMs, four at a time, and returns their names. Each starts from
// the template.
func (h *home) fork(n int) []string {
	h.t.Helper()
	work, done := make(chan string), make(chan error)
	for range 4 {
		go func() {
			for name := range work {
				r := h.run("vm", "create", "-v", "--memory", forkMemory, "--name", name)
				var err error
				if r.code != 0 || !strings.Contains(r.stderr, "from a template") {
					err = fmt.Errorf("%s: exit %d, %s", name, r.code, r.stderr)
				}
				done <- err
			}
		}()
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("fork-%d", i)
	}
	go func() {
		defer close(work)
		for _, name := range names {
			work <- name
		}
	}()
	for range names {
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	}
	if h.t.Failed() {
		h.t.FailNow()
	}
	return names
}

// checkStranger compares what a VM said of itself with what those before said.
func checkStranger(t *testing.T, seen map[string]string, name, said string) {
	t.Helper()
	lines := strings.Split(said, "\n")
	if len(lines) < 11 {
		t.Fatalf("%s said %q", name, said)
	}
	for _, line := range lines {
		what, value, ok := strings.Cut(line, " ")
		if !ok || value == "" {
			t.Errorf("%s said %q", name, line)
			continue
		}
		if what == "time" {
			now, err := strconv.ParseInt(value, 10, 64)
			if off := time.Now().Unix() - now; err != nil || off < -5 || off > 30 {
				t.Errorf("the clock of %s is %d s behind, %v", name, off, err)
			}
			continue
		}
		// Not even one's uuid may be another's secret: values are compared
		// whatever they are.
		if other, ok := seen[value]; ok {
			t.Errorf("%s has the %s %q of %s", name, what, value, other)
		}
		seen[value] = name
	}
}

// checkHostKeys: each VM has a host key of its own, and ssh, which knows them,
// accepts that.
func checkHostKeys(t *testing.T, h *home, names []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, "state", "known_hosts"))
	must(t, err)
	keys := make(map[string]bool)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			keys[fields[2]] = true
		}
	}
	if len(keys) != len(names) {
		t.Errorf("%d host keys of %d VMs:\n%s", len(keys), len(names), data)
	}
	for _, name := range names {
		if got := h.must("vm", "ssh", name, "--", "hostname"); got != name {
			t.Errorf("ssh to %s reached %q", name, got)
		}
	}
}
