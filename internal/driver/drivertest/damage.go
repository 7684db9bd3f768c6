package drivertest

import (
	"os"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/layout"
)

// testDamaged: files that are not what was written give an error, and no VMM.
func testDamaged(t *testing.T, s *subject) {
	s = s.on(t)
	dir := layout.Instance(s.machine.Dir)
	for name, damage := range map[string]func(to layout.Instance){
		"no memory":         func(to layout.Instance) { os.Remove(to.Memory()) },
		"no devices":        func(to layout.Instance) { os.Remove(to.DeviceState()) },
		"truncated memory":  func(to layout.Instance) { truncate(t, to.Memory(), 2) },
		"truncated devices": func(to layout.Instance) { truncate(t, to.DeviceState(), 2) },
		"empty memory":      func(to layout.Instance) { truncate(t, to.Memory(), 1<<40) },
		"empty devices":     func(to layout.Instance) { truncate(t, to.DeviceState(), 1<<40) },
		"written memory":    func(to layout.Instance) { scribble(t, to.Memory()) },
		"written devices":   func(to layout.Instance) { scribble(t, to.DeviceState()) },
	} {
		to := layout.Instance(t.TempDir())
		for from, path := range map[string]string{dir.Memory(): to.Memory(), dir.DeviceState(): to.DeviceState()} {
			duplicate(t, from, path)
		}
		damage(to)
		c := &subject{t: t, driver: s.driver, machine: s.twin()}
		vm, err := restoreFrom(s.driver, to.Dir())(t.Context(), c.machine, func(h driver.Handle) error { c.handle = h; return nil })
		if vm != nil || err == nil {
			t.Errorf("%s: restored", name)
			c.vm = vm
			c.destroy()
		} else if c.handle.PID != 0 && c.alive() {
			t.Errorf("%s: the VMM is left", name)
		}
	}
}

// duplicate copies a file, with its time.
func duplicate(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(to, time.Time{}, st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// truncate leaves a part of a file, keeping its time.
func truncate(t *testing.T, path string, divisor int64) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()/divisor); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// scribble changes bytes in the middle of a file.
func scribble(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("scribbled"), st.Size()/2); err != nil {
		t.Fatal(err)
	}
}
