package drivertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/process"
)

// testStart: save has the handle of a living VMM whose guest does not run.
func testStart(t *testing.T, make Make) {
	d, m := make(t)
	s := &subject{t: t, driver: d, machine: m}
	calls := 0
	vm, err := d.Start(t.Context(), m, func(h driver.Handle) error {
		calls++
		s.handle = h
		if !s.alive() {
			t.Error("save got the handle of no living process")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.vm = vm
	t.Cleanup(s.destroy)
	if calls != 1 {
		t.Errorf("save was called %d times", calls)
	}
	// A guest that ran would answer in the end; one that does not never does.
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := vm.Link().Reset(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Reset before Run: %v", err)
	}
}

// testSaveFails: an error from save ends the VMM.
func testSaveFails(t *testing.T, make Make) {
	d, m := make(t)
	s := &subject{t: t, driver: d, machine: m}
	refusal := errors.New("the disk is full")
	vm, err := d.Start(t.Context(), m, func(h driver.Handle) error { s.handle = h; return refusal })
	if vm != nil || !errors.Is(err, refusal) {
		t.Fatalf("Start: %v, %v", vm, err)
	}
	if s.alive() {
		t.Error("the VMM is left")
	}
}

// testStartCancelled: when Start returns an error, no VMM is left.
func testStartCancelled(t *testing.T, make Make) {
	d, m := make(t)
	s := &subject{t: t, driver: d, machine: m}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	vm, err := d.Start(ctx, m, func(h driver.Handle) error { s.handle = h; cancel(); return nil })
	if vm != nil || !errors.Is(err, context.Canceled) {
		t.Fatalf("Start: %v, %v", vm, err)
	}
	if s.alive() {
		t.Error("the VMM is left")
	}
}

// testPowerOff: a guest that powers itself off ended cleanly.
func testPowerOff(t *testing.T, make Make) {
	s := start(t, make)
	s.run()
	s.reset()
	broken := s.vm.Link().Broken()
	conn, err := s.vm.Link().Dial(t.Context(), testguest.PortPowerOff)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if exit := s.wait(); !exit.Clean || exit.Reason == "" {
		t.Errorf("exit %+v", exit)
	}
	await(t, broken, "Broken after the guest powered off")
}

// testCrash: any other end is not clean.
func testCrash(t *testing.T, make Make) {
	s := start(t, make)
	s.run()
	s.reset()
	conn, err := s.vm.Link().Dial(t.Context(), testguest.PortCrash)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if exit := s.wait(); exit.Clean || exit.Reason == "" {
		t.Errorf("exit %+v", exit)
	}
}

// testKill: Kill returns when the VMM is gone, and all who wait hear the same.
func testKill(t *testing.T, make Make) {
	s := start(t, make)
	const waiters = 8
	var exits [waiters]driver.Exit
	var errs [waiters]error
	var group sync.WaitGroup
	for i := range waiters {
		group.Go(func() { exits[i], errs[i] = s.vm.Wait(t.Context()) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.vm.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait without time: %v", err)
	}
	if err := s.vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.alive() {
		t.Error("Kill returned and the VMM lives")
	}
	group.Wait()
	for i := range waiters {
		if errs[i] != nil || exits[i] != exits[0] || exits[i].Clean || exits[i].Reason == "" {
			t.Errorf("waiter %d: %+v, %v", i, exits[i], errs[i])
		}
	}
	if err := s.vm.Kill(t.Context()); err != nil {
		t.Errorf("Kill of what is gone: %v", err)
	}
}

// testKilledFromOutside: the reason names the signal.
func testKilledFromOutside(t *testing.T, make Make) {
	s := start(t, make)
	if err := unix.Kill(s.handle.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Clean || !strings.Contains(exit.Reason, "killed by signal 9") {
		t.Errorf("exit %+v", exit)
	}
}

// testStarterDies: the VMM and its guest go on, and a successor takes over.
func testStarterDies(t *testing.T, make Make) {
	s := startElsewhere(t, make, modeRun)
	if !s.alive() {
		t.Fatal("the VMM ended with the process that started it")
	}
	s.adopt()
	s.reset()
	id := s.identity()
	if got := s.ask(testguest.PortEcho, "still here"); got != "still here" {
		t.Errorf("echo %q", got)
	}
	checkNetwork(t, s)
	if got := s.identity(); got != id {
		t.Errorf("guest %s, then %s", id, got)
	}
	if err := s.vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exit := s.wait(); exit.Clean {
		t.Errorf("exit %+v", exit)
	}
}

// testStarterDiesBeforeRun: the successor starts the guest.
func testStarterDiesBeforeRun(t *testing.T, make Make) {
	s := startElsewhere(t, make, modeStart)
	s.adopt()
	console := listen(t, s)
	s.run()
	console.expect(t, "guest: up")
}

// testStarterDiesInSave: no VMM is left that waits for nobody.
func testStarterDiesInSave(t *testing.T, make Make) {
	s := startElsewhere(t, make, modeSave)
	s.awaitGone()
	if _, err := s.driver.Adopt(t.Context(), s.machine, s.handle); !errors.Is(err, driver.ErrGone) {
		t.Errorf("adopt: %v", err)
	}
}

// testGone: a handle of another process, of another boot, of a dead VMM.
func testGone(t *testing.T, make Make) {
	s := start(t, make)
	if err := s.vm.Release(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*driver.Handle){
		"another start time": func(h *driver.Handle) { h.StartTime++ },
		"another boot":       func(h *driver.Handle) { h.BootID = "00000000-0000-0000-0000-000000000000" },
		"no process":         func(h *driver.Handle) { h.PID = -1 },
		"init":               func(h *driver.Handle) { h.PID = 1 },
	} {
		h := s.handle
		change(&h)
		if _, err := s.driver.Adopt(t.Context(), s.machine, h); !errors.Is(err, driver.ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !s.alive() {
		t.Error("a wrong handle ended the VMM")
	}
	if err := process.End(t.Context(), s.handle.PID, s.handle.StartTime); err != nil {
		t.Fatal(err)
	}
	if _, err := s.driver.Adopt(t.Context(), s.machine, s.handle); !errors.Is(err, driver.ErrGone) {
		t.Errorf("adopt a dead VMM: %v", err)
	}
}
