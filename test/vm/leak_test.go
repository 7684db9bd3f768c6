package vm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// TestRunsLeaveNothing: after many runs there is not one process, file, socket
// or descriptor more than after the first.
func TestRunsLeaveNothing(t *testing.T) {
	h := newHome(t)
	h.must("image", "warm") // or the first run would have a template made beside it
	h.must("vm", "run", "--rm", "--", "true")
	eventually(t, "the first run's VM is removed", func() bool {
		left, err := os.ReadDir(filepath.Join(h.dir, "state", "vms"))
		return err == nil && len(left) == 0
	})
	before := h.inventory()
	for range count("BANGER_SOAK_RUNS", 5) {
		h.must("vm", "run", "--rm", "--", "true")
	}
	var after string
	defer func() {
		if after != before {
			t.Logf("before:\n%s\nafter:\n%s", before, after)
		}
	}()
	eventually(t, "what the runs made is gone", func() bool {
		after = h.inventory()
		return after == before
	})
}

// inventory lists the home's processes, its files, and how many descriptors the
// daemon holds.
func (h *home) inventory() string {
	h.t.Helper()
	var lines []string
	for _, p := range h.processes() {
		_, command, _ := strings.Cut(p, " ")
		lines = append(lines, "process "+command)
	}
	err := filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !strings.Contains(path, "store.db") {
			lines = append(lines, "file "+path)
		}
		return nil
	})
	must(h.t, err)
	sort.Strings(lines)
	return strings.Join(append(lines, fmt.Sprintf("daemon descriptors %d", h.descriptors())), "\n")
}

// descriptors counts the daemon's, without those of the store: it opens as many
// connections as are in use at once, and keeps two.
func (h *home) descriptors() int {
	h.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", h.daemonPID())
	fds, err := os.ReadDir(dir)
	must(h.t, err)
	count := 0
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err != nil || !strings.Contains(to, "store.db") {
			count++
		}
	}
	return count
}
