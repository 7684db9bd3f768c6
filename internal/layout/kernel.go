package layout

import "path/filepath"

// Kernel is the directory of one kernel.
type Kernel string

// Kernel returns the directory of kernel name.
func (h Home) Kernel(name string) Kernel { return Kernel(filepath.Join(h.Kernels(), name)) }

// Dir is the directory itself.
func (k Kernel) Dir() string { return string(k) }

// Manifest says what the kernel is, as JSON.
func (k Kernel) Manifest() string { return filepath.Join(string(k), "manifest.json") }

// Vmlinux is the uncompressed ELF kernel.
func (k Kernel) Vmlinux() string { return filepath.Join(string(k), "vmlinux") }

// Modules holds what lib/modules/VERSION holds in a system that has the kernel
// installed.
func (k Kernel) Modules() string { return filepath.Join(string(k), "modules") }

// LockPrefix starts the name of every lock that guards the making of something.
const LockPrefix = ".lock-"

// Lock is the file that whoever makes path holds (flock): in the same
// directory, LockPrefix before the name. It is never removed, so that two
// makers always meet at the same file.
func Lock(path string) string {
	return filepath.Join(filepath.Dir(path), LockPrefix+filepath.Base(path))
}

// Apt is the private apt directory of one suite.
type Apt string

// AptSuite returns the private apt directory of suite.
func (h Home) AptSuite(suite string) Apt { return Apt(filepath.Join(h.Apt(), suite)) }

// Dir is the directory itself.
func (a Apt) Dir() string { return string(a) }

func (a Apt) file(name string) string { return filepath.Join(string(a), name) }

// Config is apt's configuration file.
func (a Apt) Config() string { return a.file("apt.conf") }

// Sources lists the archives, in apt's deb822 form.
func (a Apt) Sources() string { return a.file("archives.sources") }

// Preferences pins everything to packages that say they are Debian's.
func (a Apt) Preferences() string { return a.file("preferences") }

// State is apt's Dir::State.
func (a Apt) State() string { return a.file("state") }

// Status is the (empty) dpkg status: nothing is installed.
func (a Apt) Status() string { return a.file("status") }

// Cache is apt's Dir::Cache.
func (a Apt) Cache() string { return a.file("cache") }
