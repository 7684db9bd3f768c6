package drivertest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/layout"
)

// copies is how many copies of a guest run at once in the suite.
const copies = 3

// runFreeze runs the part of the suite for drivers that freeze and restore.
func runFreeze(t *testing.T, make Make) {
	d, m := make(t)
	if _, ok := d.(driver.Restorer); !ok {
		return
	}
	t.Run("Fingerprint", func(t *testing.T) { testFingerprint(t, d, m) })
	t.Run("NotFreezable", func(t *testing.T) { testNotFreezable(t, make) })
	t.Run("FreezeCancelled", func(t *testing.T) { testFreezeCancelled(t, make) })
	t.Run("Frozen", func(t *testing.T) { testFrozen(t, make) })
	for name, load := range map[string]func(*subject){"Streams": loadStreams, "Junk": loadJunk} {
		t.Run("FrozenUnderLoad"+name, func(t *testing.T) { testFrozenUnderLoad(t, make, load) })
	}
}

// testFingerprint: equal for equal machines, whatever callers key themselves.
func testFingerprint(t *testing.T, d driver.Driver, m driver.Machine) {
	restorer := d.(driver.Restorer)
	first, err := restorer.Fingerprint(m)
	if err != nil || len(first) < 32 {
		t.Fatalf("fingerprint %q: %v", first, err)
	}
	again, err := restorer.Fingerprint(driver.Machine{Accel: m.Accel, Bin: m.Bin})
	if err != nil || again != first {
		t.Errorf("fingerprint %s, then %s: %v", first, again, err)
	}
	m.Accel = map[string]string{"tcg": "kvm", "kvm": "tcg"}[m.Accel]
	if other, err := restorer.Fingerprint(m); err != nil || other == first {
		t.Errorf("fingerprint with another accelerator: %v", err)
	}
}

// testNotFreezable: only a VM that was started for it can be frozen, and the
// attempt ends it.
func testNotFreezable(t *testing.T, make Make) {
	s := start(t, make)
	if err := s.vm.(driver.Freezer).Freeze(t.Context(), t.TempDir()); err == nil {
		t.Error("frozen")
	}
	if s.alive() {
		t.Error("the VMM is left")
	}
}

// testFreezeCancelled: when Freeze fails, no VMM is left.
func testFreezeCancelled(t *testing.T, make Make) {
	s := startFreezable(t, make)
	s.run()
	s.reset()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.vm.(driver.Freezer).Freeze(ctx, s.machine.Dir); err == nil {
		t.Error("no error")
	}
	if s.alive() {
		t.Error("the VMM is left")
	}
}

// startFreezable starts a VMM that can be frozen.
func startFreezable(t *testing.T, make Make) *subject {
	t.Helper()
	return start(t, func(t testing.TB) (driver.Driver, driver.Machine) {
		d, m := make(t)
		m.Freezable = true
		return d, m
	})
}

// freeze freezes the guest into its own directory.
func (s *subject) freeze() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := s.vm.Link().Close(); err != nil {
		s.t.Fatal(err)
	}
	begin := time.Now()
	if err := s.vm.(driver.Freezer).Freeze(ctx, s.machine.Dir); err != nil {
		s.t.Fatalf("freeze: %v%s", err, s.logs())
	}
	s.t.Logf("frozen in %s", time.Since(begin).Round(time.Millisecond))
	if s.alive() {
		s.t.Fatal("the VMM is left")
	}
	dir := layout.Instance(s.machine.Dir)
	for _, path := range []string{dir.Memory(), dir.DeviceState()} {
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o400 {
			s.t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}

// twin is the machine of a copy of the guest: its own directory and disks.
func (s *subject) twin() driver.Machine {
	s.t.Helper()
	m := s.machine
	m.ID, m.Dir, m.Freezable = "copy", s.t.TempDir(), false
	m.Disks = append([]driver.Disk(nil), m.Disks...)
	for i, d := range m.Disks {
		if d.ReadOnly {
			continue
		}
		m.Disks[i].Path = filepath.Join(m.Dir, filepath.Base(d.Path))
		duplicate(s.t, d.Path, m.Disks[i].Path)
	}
	return m
}

func restoreFrom(d driver.Driver, from string) func(context.Context, driver.Machine, func(driver.Handle) error) (driver.Instance, error) {
	return func(ctx context.Context, m driver.Machine, save func(driver.Handle) error) (driver.Instance, error) {
		return d.(driver.Restorer).Restore(ctx, m, from, save)
	}
}

// restore starts a copy of the guest, which stands still.
func (s *subject) restore() *subject {
	s.t.Helper()
	c := &subject{t: s.t, driver: s.driver, machine: s.twin()}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	var err error
	c.vm, err = restoreFrom(s.driver, s.machine.Dir)(ctx, c.machine, func(h driver.Handle) error {
		c.handle = h
		if !c.alive() {
			s.t.Error("save got the handle of no living process")
		}
		return nil
	})
	if err != nil {
		s.t.Fatalf("restore: %v%s", err, c.logs())
	}
	s.t.Cleanup(c.destroy)
	return c
}

// testFrozen goes through what copies of one guest can do.
func testFrozen(t *testing.T, make Make) {
	s := startFreezable(t, make)
	s.run()
	s.reset()
	id := s.identity()
	s.ask(testguest.PortMemory, "from before")
	s.freeze()
	memory := layout.Instance(s.machine.Dir).Memory()
	before := hash(t, memory)

	t.Run("StandsStill", func(t *testing.T) { testStandsStill(t, s) })
	t.Run("Copies", func(t *testing.T) { testCopies(t, s, id) })
	t.Run("SaveFails", func(t *testing.T) { testRestoreSaveFails(t, s) })
	t.Run("StarterDies", func(t *testing.T) { testCopyStarterDies(t, s, id) })
	t.Run("StarterDiesInSave", func(t *testing.T) {
		c := elsewhere(t, s.driver, s.twin(), modeSave, s.machine.Dir)
		c.awaitGone()
	})
	if after := hash(t, memory); after != before {
		t.Errorf("the frozen memory was %s and is %s", before, after)
	}
	t.Run("Damaged", func(t *testing.T) { testDamaged(t, s) })
	t.Run("Removed", func(t *testing.T) { testRemoved(t, s, id) })
}

func hash(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// on is s for a subtest.
func (s *subject) on(t *testing.T) *subject {
	c := *s
	c.t = t
	return &c
}

// testStandsStill: a restored guest does nothing until Run.
func testStandsStill(t *testing.T, s *subject) {
	c := s.on(t).restore()
	checkInfo(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.vm.Link().Reset(ctx, nil); err == nil {
		t.Error("the guest answers before Run")
	}
	c.run()
	c.reset()
}

// testCopies: several copies at once are the same guest, and go their own ways.
func testCopies(t *testing.T, s *subject, id string) {
	s = s.on(t)
	var all [copies]*subject
	var consoles [copies]*listener
	for i := range all {
		all[i] = s.restore()
		// Joined before the guest runs, it misses nothing.
		consoles[i] = listen(t, all[i])
	}
	for _, c := range all {
		c.run()
		c.reset()
		if got := c.identity(); got != id {
			t.Errorf("a copy of guest %s is %s", id, got)
		}
	}
	written := func(i int) string { return strings.Repeat(fmt.Sprintf("copy %d ", i), 1<<20) }
	for i, c := range all {
		if got := c.ask(testguest.PortMemory, ""); got != "from before" {
			t.Errorf("copy %d kept %.100q", i, got)
		}
		c.ask(testguest.PortMemory, written(i))
	}
	for i, c := range all {
		if got := c.ask(testguest.PortMemory, ""); got != written(i) {
			t.Errorf("copy %d kept %.100q", i, got)
		}
		checkNetwork(t, c)
		text := fmt.Sprintf("words of copy %d", i)
		c.ask(testguest.PortConsole, text+"\n")
		consoles[i].expect(t, text)
		consoles[i].conn.Close()
	}
	checkSuccession(t, all[0], id)
	checkEnds(t, all)
}

// checkEnds: a copy is not frozen again, and powers itself off like any guest.
func checkEnds(t *testing.T, all [copies]*subject) {
	t.Helper()
	// As the kernel does that shuts down.
	all[2].ask(testguest.PortResetNetwork, "")
	all[2].identity()
	conn, err := all[2].vm.Link().Dial(t.Context(), testguest.PortPowerOff)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if exit := all[2].wait(); !exit.Clean {
		t.Errorf("a copy that powered itself off: %+v", exit)
	}
	if err := all[1].vm.(driver.Freezer).Freeze(t.Context(), t.TempDir()); err == nil || all[1].alive() {
		t.Errorf("a copy was frozen, or lives: %v", err)
	}
}

// testRestoreSaveFails: an error from save ends the VMM.
func testRestoreSaveFails(t *testing.T, s *subject) {
	c := &subject{t: t, driver: s.driver, machine: s.on(t).twin()}
	refusal := fmt.Errorf("the disk is full")
	vm, err := restoreFrom(s.driver, s.machine.Dir)(t.Context(), c.machine, func(h driver.Handle) error { c.handle = h; return refusal })
	if vm != nil || err == nil || c.alive() {
		t.Errorf("restore: %v, %v; alive: %v", vm, err, c.alive())
	}
}

// testCopyStarterDies: a successor takes a copy over, running or not yet.
func testCopyStarterDies(t *testing.T, s *subject, id string) {
	for _, mode := range []string{modeStart, modeRun} {
		c := elsewhere(t, s.driver, s.on(t).twin(), mode, s.machine.Dir)
		c.adopt()
		c.run()
		c.reset()
		if got := c.identity(); got != id {
			t.Errorf("%s: guest %s after the adoption, %s before", mode, got, id)
		}
	}
}

// testRemoved: a copy goes on when the frozen guest is removed.
func testRemoved(t *testing.T, s *subject, id string) {
	c := s.on(t).restore()
	dir := layout.Instance(s.machine.Dir)
	for _, path := range []string{dir.Memory(), dir.DeviceState()} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	c.run()
	c.reset()
	if got := c.identity(); got != id {
		t.Errorf("a copy of guest %s is %s", id, got)
	}
	if vm, err := restoreFrom(s.driver, s.machine.Dir)(t.Context(), s.on(t).twin(), func(driver.Handle) error { return nil }); vm != nil || err == nil {
		t.Error("restored from nothing")
	}
}
