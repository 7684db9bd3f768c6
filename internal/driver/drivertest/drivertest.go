// Package drivertest is the suite that every driver passes: the contract of
// package driver, sentence by sentence.
//
// The guest of the machine under test is internal/driver/testguest.
package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// patience bounds every wait of the suite: generous, because it may share its
// host with anything. It is never part of what is tested.
const patience = 2 * time.Minute

// Make returns the driver and a new machine, whose Dir exists and is empty.
type Make func(t testing.TB) (driver.Driver, driver.Machine)

// Run runs the suite: its part on freezing too, if the driver is a Restorer.
func Run(t *testing.T, make Make) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Make)
	}{
		{"Start", testStart},
		{"SaveFails", testSaveFails},
		{"StartCancelled", testStartCancelled},
		{"Life", testLife},
		{"Resets", testResets},
		{"Pause", testPause},
		{"Resize", testResize},
		{"PowerOff", testPowerOff},
		{"Crash", testCrash},
		{"Kill", testKill},
		{"KilledFromOutside", testKilledFromOutside},
		{"StarterDies", testStarterDies},
		{"StarterDiesBeforeRun", testStarterDiesBeforeRun},
		{"StarterDiesInSave", testStarterDiesInSave},
		{"Gone", testGone},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, make) })
	}
	runFreeze(t, make)
}

// subject is a machine with its VMM.
type subject struct {
	t       *testing.T
	driver  driver.Driver
	machine driver.Machine
	handle  driver.Handle
	vm      driver.Instance
}

// start starts a VMM; it is gone when the test ends.
func start(t *testing.T, make Make) *subject {
	t.Helper()
	d, m := make(t)
	s := &subject{t: t, driver: d, machine: m}
	var err error
	s.vm, err = d.Start(t.Context(), m, func(h driver.Handle) error { s.handle = h; return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.destroy() })
	return s
}

// destroy ends the VMM, whoever holds it.
func (s *subject) destroy() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := process.End(ctx, s.handle.PID, s.handle.StartTime); err != nil {
		s.t.Error(err)
	}
	if s.vm == nil {
		return
	}
	if _, err := s.vm.Wait(ctx); err != nil && !errors.Is(err, os.ErrClosed) {
		s.t.Error(err)
	}
	if err := s.vm.Release(); err != nil {
		s.t.Error(err)
	}
}

// run lets the guest go on.
func (s *subject) run() {
	s.t.Helper()
	if err := s.vm.Run(s.t.Context()); err != nil {
		s.t.Fatalf("run: %v%s", err, s.logs())
	}
}

// reset begins a session with the guest.
func (s *subject) reset() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := s.vm.Link().Reset(ctx, nil); err != nil {
		s.t.Fatalf("reset: %v%s", err, s.logs())
	}
}

// logs is how the VMM is, for a failed test.
func (s *subject) logs() string {
	data, _ := os.ReadFile(layout.Instance(s.machine.Dir).VMMLog())
	text := "\nVMM: " + string(data)
	if s.vm == nil {
		return text
	}
	// One that is about to end ends within this.
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	exit, err := s.vm.Wait(ctx)
	return fmt.Sprintf("%s\nit ended: %+v, %v", text, exit, err)
}

// ask sends text to a guest port and returns all that comes back.
func (s *subject) ask(port uint32, text string) string {
	s.t.Helper()
	conn, err := s.vm.Link().Dial(s.t.Context(), port)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(answer)
}

// identity is the guest's own name.
func (s *subject) identity() string {
	s.t.Helper()
	id := s.ask(testguest.PortIdentity, "")
	if len(id) != 32 {
		s.t.Fatalf("identity %q", id)
	}
	return id
}

// wait returns how the VMM ended.
func (s *subject) wait() driver.Exit {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	exit, err := s.vm.Wait(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if s.alive() {
		s.t.Error("Wait returned and the process lives")
	}
	return exit
}

func (s *subject) alive() bool { return process.Alive(s.handle.PID, s.handle.StartTime) }

// adopt takes the VMM over.
func (s *subject) adopt() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	vm, err := s.driver.Adopt(ctx, s.machine, s.handle)
	if err != nil {
		s.t.Fatalf("adopt: %v%s", err, s.logs())
	}
	s.vm = vm
}

// awaitGone waits for the end of the VMM's process.
func (s *subject) awaitGone() {
	s.t.Helper()
	h, err := process.Open(s.handle.PID)
	if errors.Is(err, process.ErrGone) || !s.alive() {
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	if err := h.Wait(ctx); err != nil {
		s.t.Errorf("process %d of the VMM is left: %v", s.handle.PID, err)
	}
}

// Words of a starter process.
const (
	starterCommand = "drivertest-start"
	modeRun        = "run"
	modeStart      = "start"
	modeSave       = "save"
	starterReady   = "ready\n"
)

// Main is what TestMain of a driver's test calls: it runs the tests, or is the
// process that starts a VMM and is killed. It returns the exit code.
func Main(m *testing.M, d driver.Driver) int {
	if len(os.Args) != 5 || os.Args[1] != starterCommand {
		return m.Run()
	}
	if err := starter(d, os.Args[2], os.Args[3], os.Args[4]); err != nil {
		slog.Error("starter", "err", err)
		return 1
	}
	return 0
}

// starter starts a VMM, with the guest frozen in from if that is not empty, goes
// as far as mode says, and waits to be killed.
func starter(d driver.Driver, mode, from, machine string) error {
	var m driver.Machine
	if err := json.Unmarshal([]byte(machine), &m); err != nil {
		return err
	}
	ready := func() {
		os.Stdout.WriteString(starterReady)
		io.Copy(io.Discard, os.Stdin)
	}
	start := d.Start
	if from != "" {
		start = restoreFrom(d, from)
	}
	vm, err := start(context.Background(), m, func(h driver.Handle) error {
		data, err := json.Marshal(h)
		if err != nil {
			return err
		}
		if err := os.WriteFile(layout.Instance(m.Dir).VMM(), data, 0o600); err != nil {
			return err
		}
		if mode == modeSave {
			ready()
		}
		return nil
	})
	if err != nil {
		return err
	}
	if mode == modeRun {
		if err := vm.Run(context.Background()); err != nil {
			return err
		}
	}
	ready()
	return nil
}

// startElsewhere has another process start the VMM, up to mode, and kills that
// process. The VMM, if it lives, is of nobody.
func startElsewhere(t *testing.T, make Make, mode string) *subject {
	t.Helper()
	d, m := make(t)
	return elsewhere(t, d, m, mode, "")
}

// elsewhere is startElsewhere for one machine, started or restored.
func elsewhere(t *testing.T, d driver.Driver, m driver.Machine, mode, from string) *subject {
	t.Helper()
	machine, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, starterCommand, mode, from, string(machine))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := [len(starterReady)]byte{}
	_, readErr := io.ReadFull(stdout, said[:])
	if err := cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	cmd.Wait()
	if readErr != nil {
		t.Fatalf("the starter: %v", readErr)
	}
	s := &subject{t: t, driver: d, machine: m}
	data, err := os.ReadFile(layout.Instance(m.Dir).VMM())
	if err == nil {
		err = json.Unmarshal(data, &s.handle)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.destroy)
	return s
}
