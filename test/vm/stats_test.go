package vm

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestStats: what a VM uses, as the host and as its guest see it, also for longer than
// a guest's own messages are rationed; and what all of it takes on the disk.
func TestStats(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "used")
	h.must("vm", "exec", "used", "--", "sh", "-c", "head -c 30M /dev/urandom >/root/file; sync")
	type stats struct {
		VM    string
		CPU   float64 `json:"cpu_percent"`
		Mem   int64   `json:"vmm_memory_bytes"`
		Disk  int64   `json:"host_disk_bytes"`
		Guest *struct {
			Total int64 `json:"memory_total_bytes"`
			Used  int64 `json:"work_used_bytes"`
			Procs int64 `json:"processes"`
		}
	}
	var all []stats
	must(t, json.Unmarshal([]byte(h.must("vm", "stats", "--json")), &all))
	if len(all) != 1 || all[0].Guest == nil || all[0].Guest.Used < 30<<20 || all[0].Guest.Procs < 5 ||
		all[0].Guest.Total < 64<<20 || all[0].Mem < 64<<20 || all[0].Disk < 30<<20 {
		t.Errorf("%+v", all)
	}
	for range 80 { // more than a guest's events may be at once
		if r := h.run("vm", "health", "used"); r.code != 0 {
			t.Fatalf("health: exit %d, %s", r.code, r.stderr)
		}
	}
	h.must("vm", "pause", "used")
	must(t, json.Unmarshal([]byte(h.must("vm", "stats", "--json", "used")), &all))
	if len(all) != 1 || all[0].Guest != nil || all[0].Mem == 0 {
		t.Errorf("while it is paused: %+v", all)
	}
	if r := h.run("vm", "health", "used"); r.code != 4 || !strings.Contains(r.stderr, "banger vm resume used") {
		t.Errorf("health of a paused VM: exit %d, %s", r.code, r.stderr)
	}
	out := h.must("df")
	for _, kind := range []string{"VMs", "images", "kernels", "caches", "all"} {
		if !strings.Contains(out, "\n"+kind+" ") {
			t.Errorf("no %s in:\n%s", kind, out)
		}
	}
	h.must("vm", "stop", "used")
	h.must("vm", "prune", "-f")
	if left := h.must("vm", "list", "-aq"); left != "" {
		t.Errorf("left by prune: %s", left)
	}
}
