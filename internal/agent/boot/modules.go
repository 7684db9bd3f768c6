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

// lateModule is a module that the agent's first answer does not need. It is
// loaded after that; its file outlives the initramfs by being open.
type lateModule struct {
	name string
	file *os.File
}

// loadModules loads the modules that the file "order" in dir names, one a line,
// and returns those that can wait. A kernel with everything built in has no such
// file.
func loadModules(dir string) ([]lateModule, error) {
	names, err := moduleOrder(filepath.Join(dir, "order"))
	if err != nil {
		return nil, err
	}
	var late []lateModule
	for _, name := range names {
		kind := kindOf(name)
		if !hasDevice("/sys/bus/virtio/devices", kind) {
			continue
		}
		file, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return nil, fmt.Errorf("cannot open kernel module %s: %w", name, err)
		}
		if kind.late {
			late = append(late, lateModule{name, file})
			continue
		}
		err = loadModule(file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("cannot load kernel module %s: %w", name, err)
		}
	}
	return late, nil
}

// loadLate loads what could wait. A VM that is up goes on without it, and says
// so.
func loadLate(modules []lateModule) {
	for _, m := range modules {
		if err := loadModule(m.file); err != nil {
			fmt.Fprintf(os.Stderr, "banger: cannot load kernel module %s: %v\n", m.name, err)
		}
		m.file.Close()
	}
}

// moduleKind is what is known of a module by a part of its name.
type moduleKind struct {
	part string
	// id is the virtio device that it is for; mmio has the devices of the
	// machines that have no PCI.
	id   string
	late bool
}

const mmio = "mmio"

// moduleKinds are the modules that not every machine needs at once: each one
// loaded in vain costs an emulated guest some milliseconds, and the network
// costs 60 ms that the agent's answer need not wait for.
var moduleKinds = []moduleKind{
	{"net_failover", "0x0001", true}, {"failover", "0x0001", true}, {"virtio_net", "0x0001", true},
	{"virtio-rng", "0x0004", true}, {"vsock", "0x0013", false}, {"virtio_mmio", mmio, false},
}

func kindOf(module string) moduleKind {
	for _, kind := range moduleKinds {
		if strings.Contains(module, kind.part) {
			return kind
		}
	}
	return moduleKind{}
}

// hasDevice reports whether a module of this kind may be of use on this machine.
// Modules that no device is known for always may, and so may all of them before
// the bus has its devices.
func hasDevice(bus string, kind moduleKind) bool {
	devices, err := os.ReadDir(bus)
	if err != nil || len(devices) == 0 {
		return true
	}
	switch kind.id {
	case "":
		return true
	case mmio:
		return false // the devices are on PCI
	}
	return hasID(bus, devices, kind.id)
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

func loadModule(file *os.File) error {
	if err := unix.FinitModule(int(file.Fd()), "", 0); err != nil && err != unix.EEXIST {
		return err
	}
	return nil
}
