package qemu_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/drivertest"
	"github.com/banger-dev/banger/internal/driver/qemu"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == confine.Command {
		fmt.Fprintln(os.Stderr, confine.Main(os.Args[2:]))
		os.Exit(1)
	}
	os.Exit(drivertest.Main(m, newDriver()))
}

func newDriver() driver.Driver { return qemu.New(qemu.Options{Log: slog.New(slog.DiscardHandler)}) }

// machines returns a maker of machines that boot the test guest.
func machines(t testing.TB) drivertest.Make {
	t.Helper()
	vmlinux, modules := drivertest.Kernel(t)
	initrd := filepath.Join(t.TempDir(), "initrd, with a comma")
	drivertest.Initrd(t, initrd, modules)
	return func(t testing.TB) (driver.Driver, driver.Machine) {
		m := driver.Machine{
			ID: "test", VCPU: 1, MemoryMiB: 256, Kernel: vmlinux, Initrd: initrd, Accel: "tcg", Dir: t.TempDir(),
		}
		for _, serial := range []string{"base", "overlay", "work"} {
			path := filepath.Join(m.Dir, serial+", disk.ext4")
			if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			m.Disks = append(m.Disks, driver.Disk{Serial: serial, Path: path, ReadOnly: serial == "base"})
		}
		return newDriver(), m
	}
}

func TestContract(t *testing.T) { drivertest.Run(t, machines(t)) }

// BenchmarkStart measures from Start to a VMM whose monitor answers.
func BenchmarkStart(b *testing.B) { benchmark(b, func(driver.Instance) error { return nil }) }

// BenchmarkBoot measures from Start to the first session with the guest.
func BenchmarkBoot(b *testing.B) {
	benchmark(b, func(vm driver.Instance) error {
		if err := vm.Run(b.Context()); err != nil {
			return err
		}
		return vm.Link().Reset(b.Context(), nil)
	})
}

func benchmark(b *testing.B, after func(driver.Instance) error) {
	newMachine := machines(b)
	var rss int64
	for b.Loop() {
		b.StopTimer()
		d, m := newMachine(b)
		b.StartTimer()
		vm, err := d.Start(b.Context(), m, func(driver.Handle) error { return nil })
		if err == nil {
			err = after(vm)
		}
		b.StopTimer()
		if err != nil {
			b.Fatal(err)
		}
		rss = max(rss, resident(b, vm.Info().PID))
		if err := vm.Kill(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := vm.Release(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(rss)/1024, "RSS-MiB")
}

// resident is what a process holds in memory, in KiB.
func resident(b *testing.B, pid int) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return kib
		}
	}
	return 0
}
