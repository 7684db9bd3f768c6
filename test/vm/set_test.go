package vm

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// sizeOf is what df says in the guest of the file system at path, in MiB.
func (h *home) sizeOf(name, path string) int {
	h.t.Helper()
	out := h.must("vm", "exec", name, "--", "df", "-BM", "--output=size", path)
	_, line, _ := strings.Cut(out, "\n")
	n, err := strconv.Atoi(strings.Trim(line, " M\n"))
	if err != nil {
		h.t.Fatalf("df says %q", out)
	}
	return n
}

// TestSet: disks grow in a running guest and in a stopped one, with what is on them;
// the rest changes while it is stopped.
func TestSet(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "grow", "--disk-size", "1G", "--system-overlay-size", "1G")
	h.must("vm", "exec", "grow", "--", "sh", "-c", "echo kept >/root/file; echo kept >/etc/file")
	before := h.sizeOf("grow", "/root")
	h.must("vm", "set", "--disk-size", "3G", "--system-overlay-size", "2G", "grow")
	if work, overlay := h.sizeOf("grow", "/root"), h.sizeOf("grow", "/"); work < before+1900 || overlay < 1900 {
		t.Errorf("grown while it runs: /root %d MiB (%d before), / %d MiB", work, before, overlay)
	}
	h.must("vm", "exec", "grow", "--", "sh", "-c", "head -c 1500M /dev/zero >/root/big && rm /root/big")
	if r := h.run("vm", "set", "--memory", "300M", "grow"); r.code != 4 || !strings.Contains(r.stderr, "banger vm stop grow") {
		t.Errorf("memory of a running VM: exit %d, %s", r.code, r.stderr)
	}
	if r := h.run("vm", "set", "--disk-size", "1G", "grow"); r.code != 2 {
		t.Errorf("a disk that shrinks: exit %d, %s", r.code, r.stderr)
	}
	h.must("vm", "stop", "grow")
	h.must("vm", "set", "--disk-size", "5G", "--memory", "384M", "--name", "grown", "grow")
	h.must("vm", "start", "grown")
	if work := h.sizeOf("grown", "/root"); work < before+3900 {
		t.Errorf("grown while it was stopped: %d MiB", work)
	}
	got := h.must("vm", "exec", "grown", "--", "sh", "-c", "cat /root/file /etc/file; hostname; awk '/MemTotal/{print $2<400000}' /proc/meminfo")
	if got != "kept\nkept\ngrown\n1" {
		t.Errorf("after the changes: %q", got)
	}
	var health struct {
		Healthy bool
		Init    string
		Latency float64 `json:"latency_ms"`
	}
	must(t, json.Unmarshal([]byte(h.must("vm", "health", "--json", "grown")), &health))
	if !health.Healthy || health.Init != "systemd" || health.Latency <= 0 {
		t.Errorf("health: %+v", health)
	}
}
