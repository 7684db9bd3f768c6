package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// spareConfig lets the host keep a few spares, and gives VMs a shape that is quick
// to make.
const spareConfig = "[vm_defaults]\nmemory = \"512M\"\n[spares]\nmemory = \"300M\"\n"

// awaitSpare waits until a spare is there, and returns its directory.
func (h *home) awaitSpare() string {
	h.t.Helper()
	var marks []string
	eventually(h.t, "a spare waits, and none is being made", func() bool {
		var status struct {
			Spares int `json:"spares"`
		}
		must(h.t, json.Unmarshal([]byte(h.must("daemon", "status", "--json")), &status))
		var err error
		marks, err = filepath.Glob(filepath.Join(h.dir, "state", "vms", "*", "spare"))
		must(h.t, err)
		return status.Spares > 0 && status.Spares == len(marks)
	})
	return filepath.Dir(marks[0])
}

// spareHome is a home with a template and a spare of it.
func spareHome(t *testing.T) *home {
	h := newHome(t)
	h.configure(spareConfig)
	h.must("image", "warm")
	h.awaitSpare()
	return h
}

// TestRunFromASpare: the command is its VM's own, and nothing is left of it.
func TestRunFromASpare(t *testing.T) {
	h := spareHome(t)
	r := h.runWith(strings.NewReader("in\n"), "vm", "run", "-v", "--rm", "--", "sh", "-c", "cat; echo out; echo err >&2; exit 7")
	if r.code != 7 || r.stdout != "in\nout\n" || !strings.Contains(r.stderr, "started from a spare") || !strings.Contains(r.stderr, "err\n") {
		t.Fatalf("exit %d, %q\n%s", r.code, r.stdout, r.stderr)
	}
	if list := h.must("vm", "list", "--all", "-q"); list != "" {
		t.Errorf("left: %s", list)
	}
	h.awaitSpare()
	r = h.run("vm", "run", "-v", "--rm", "--cold", "--", "true")
	if r.code != 0 || !strings.Contains(r.stderr, "booted: ") {
		t.Errorf("--cold: exit %d, %s", r.code, r.stderr)
	}
	if text := h.must("template", "list"); !strings.Contains(text, "SPARES") {
		t.Errorf("template list: %s", text)
	}
	h.awaitSpare()
	if text := h.run("doctor").stdout; strings.Contains(text, "doctor --repair") {
		t.Errorf("doctor takes a spare for a leftover:\n%s", text)
	}
}

// TestSparesAreStrangers: VMs that were made from spares share nothing that tells
// one from another, know the time, and have the names that were asked for.
func TestSparesAreStrangers(t *testing.T) {
	h := spareHome(t)
	seen := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		h.awaitSpare()
		h.must("vm", "create", "--name", name)
		if began := h.must("vm", "show", name); !strings.Contains(began, "began by:     spare") {
			t.Errorf("%s did not start from a spare:\n%s", name, began)
		}
		said := h.must("vm", "exec", name, "--", "sh", "-c", who)
		if !strings.HasPrefix(said, "hostname "+name+"\n") {
			t.Errorf("%s says %q", name, said)
		}
		checkStranger(t, seen, name, said)
	}
	if text := h.must("vm", "exec", "two", "--", "cat", "/etc/hostname", "/etc/machine-id"); !strings.HasPrefix(text, "two\n") {
		t.Errorf("its files: %q", text)
	}
}

// TestLifeAfterAClaim: what was a spare is any VM.
func TestLifeAfterAClaim(t *testing.T) {
	h := spareHome(t)
	h.must("vm", "create", "--name", "dev", "--nat=false")
	if began := h.must("vm", "show", "dev"); !strings.Contains(began, "began by:     spare") {
		t.Fatalf("it did not start from a spare:\n%s", began)
	}
	if text := h.must("vm", "ssh", "dev", "--", "hostname"); text != "dev" {
		t.Errorf("ssh says %q", text)
	}
	if r := h.run("vm", "exec", "dev", "--", "bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80"); r.code == 0 {
		t.Error("it reached the world without nat")
	}
	h.must("vm", "exec", "dev", "--", "sh", "-c", "echo kept > /root/file; sync")
	// Its supervisor is followed by another, and so is its daemon.
	before := h.show("dev")
	p, err := os.FindProcess(before.SupervisorPID)
	must(t, err)
	must(t, p.Kill())
	eventually(t, "a successor is there", func() bool {
		now := h.show("dev")
		return now.SupervisorPID != 0 && now.SupervisorPID != before.SupervisorPID && now.VMMPID == before.VMMPID
	})
	h.must("daemon", "restart")
	if text := h.must("vm", "exec", "dev", "--", "cat", "/root/file"); text != "kept" {
		t.Errorf("after a successor: %q", text)
	}
	h.must("vm", "stop", "dev")
	h.must("vm", "start", "dev")
	if text := h.must("vm", "exec", "dev", "--", "sh", "-c", "cat /root/file; hostname"); text != "kept\ndev" {
		t.Errorf("after a boot: %q", text)
	}
}

// TestLargerDisks: a VM that asks for larger disks than VMs usually have starts
// from a spare or a template all the same, and has them.
func TestLargerDisks(t *testing.T) {
	h := spareHome(t)
	for _, origin := range []string{"spare", "template"} {
		args := []string{"vm", "run", "--rm", "-v", "--disk-size", "20G", "--system-overlay-size", "12G"}
		if origin == "template" {
			h.configure(strings.Replace(spareConfig, "300M", "0M", 1))
			h.must("daemon", "restart")
		}
		r := h.run(append(args, "--", "df", "-B1G", "--output=size", "/root", "/")...)
		if r.code != 0 || !strings.Contains(r.stderr, "started from a "+origin) {
			t.Fatalf("%s: exit %d\n%s", origin, r.code, r.stderr)
		}
		sizes := strings.Fields(r.stdout)
		if len(sizes) != 3 || !slices.Contains([]string{"19", "20"}, sizes[1]) || !slices.Contains([]string{"11", "12"}, sizes[2]) {
			t.Errorf("%s: sizes in GiB: %q", origin, sizes)
		}
	}
}
