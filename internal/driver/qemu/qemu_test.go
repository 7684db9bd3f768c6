package qemu_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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
func machines(t *testing.T) drivertest.Make {
	t.Helper()
	vmlinux, modules := kernel(t)
	initrd := filepath.Join(t.TempDir(), "initrd, with a comma")
	drivertest.Initrd(t, initrd, modules)
	return func(t *testing.T) (driver.Driver, driver.Machine) {
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
