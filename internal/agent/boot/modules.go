package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules that the file "order" in dir names, one a line.
// A kernel with everything built in has no such file.
func loadModules(dir string) error {
	names, err := moduleOrder(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if !hasDevice("/sys/bus/virtio/devices", name) {
			continue
		}
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot load kernel module %s: %w", name, err)
		}
	}
	return nil
}

// virtioIDs are the devices that modules are for, by a part of a module's name:
// each module loaded in vain costs an emulated guest some milliseconds.
var virtioIDs = []struct{ part, id string }{
	{"net_failover", "0x0001"}, {"failover", "0x0001"}, {"virtio_net", "0x0001"},
	{"virtio-rng", "0x0004"}, {"vsock", "0x0013"},
}

// hasDevice reports whether a module may be of use on this machine. Modules
// that no device is known for always may, and so may all of them before the
// bus has its devices.
func hasDevice(bus, module string) bool {
	devices, err := os.ReadDir(bus)
	if err != nil || len(devices) == 0 {
		return true
	}
	if strings.Contains(module, "virtio_mmio") {
		return false // the devices are on PCI
	}
	for _, v := range virtioIDs {
		if strings.Contains(module, v.part) {
			return hasID(bus, devices, v.id)
		}
	}
	return true
}

func hasID(bus string, devices []os.DirEntry, id string) bool {
	for _, d := range devices {
		text, err := os.ReadFile(filepath.Join(bus, d.Name(), "device"))
		if err == nil && strings.TrimSpace(string(text)) == id {
			return true
		}
	}
	return false
}

func moduleOrder(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the list of kernel modules: %w", err)
	}
	return strings.Fields(string(text)), nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
