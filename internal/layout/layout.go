// Package layout owns every name that banger puts on disk: directories, files
// and sockets. Nothing else joins path elements of the state directory.
package layout

import (
	"os"
	"path/filepath"

	banger "github.com/banger-dev/banger"
)

// HomeVar names the environment variable that moves config, state and cache
// under one directory.
const HomeVar = "BANGER_HOME"

// Home is where one user's banger lives.
type Home struct {
	// Config holds config.toml and ssh/; banger never writes config.toml.
	Config string
	// State holds everything that must survive: store, vms, images, kernels,
	// sockets.
	State string
	// Cache holds what can be made again.
	Cache string
}

// FromEnv returns the directories of the calling user: below $BANGER_HOME if it
// is set, else the XDG ones. It creates nothing.
func FromEnv(getenv func(string) string) (Home, error) {
	if root := getenv(HomeVar); root != "" {
		abs, err := filepath.Abs(root)
		if err != nil {
			return Home{}, err
		}
		return Home{
			Config: filepath.Join(abs, "config"),
			State:  filepath.Join(abs, "state"),
			Cache:  filepath.Join(abs, "cache"),
		}, nil
	}
	home := getenv("HOME")
	if home == "" {
		return Home{}, banger.Errorf(banger.CodeUnavailable, "neither %s nor HOME is set", HomeVar).
			WithHint("export HOME=/home/you")
	}
	xdg := func(name, fallback string) string {
		if dir := getenv(name); filepath.IsAbs(dir) {
			return filepath.Join(dir, "banger")
		}
		return filepath.Join(home, fallback, "banger")
	}
	return Home{
		Config: xdg("XDG_CONFIG_HOME", ".config"),
		State:  xdg("XDG_STATE_HOME", filepath.Join(".local", "state")),
		Cache:  xdg("XDG_CACHE_HOME", ".cache"),
	}, nil
}

// ConfigFile is the user's config.toml.
func (h Home) ConfigFile() string { return filepath.Join(h.Config, "config.toml") }

// SSHKey is the user's private key for VMs; the public one is beside it (.pub).
func (h Home) SSHKey() string { return filepath.Join(h.Config, "ssh", "id_ed25519") }

// Store is the SQLite database.
func (h Home) Store() string { return filepath.Join(h.State, "store.db") }

// DaemonLock is held (flock) by the one daemon of this state directory.
func (h Home) DaemonLock() string { return filepath.Join(h.State, "bangerd.lock") }

// StartLock is held (flock) by the client that starts the daemon.
func (h Home) StartLock() string { return filepath.Join(h.State, "start.lock") }

// DaemonSocket is where the daemon listens.
func (h Home) DaemonSocket() string { return filepath.Join(h.State, "bangerd.sock") }

// DaemonLog is the daemon's log.
func (h Home) DaemonLog() string { return filepath.Join(h.State, "bangerd.log") }

// KnownHosts lists the host keys of all VMs for ssh clients.
func (h Home) KnownHosts() string { return filepath.Join(h.State, "known_hosts") }

// Probe keeps the outcome of the KVM probe, once per host boot.
func (h Home) Probe() string { return filepath.Join(h.State, "probe.json") }

// VMs holds one instance directory per VM.
func (h Home) VMs() string { return filepath.Join(h.State, "vms") }

// Images holds one directory per image.
func (h Home) Images() string { return filepath.Join(h.State, "images") }

// Kernels holds one directory per kernel.
func (h Home) Kernels() string { return filepath.Join(h.State, "kernels") }

// Templates holds one directory per template. Each is laid out like an instance
// (Spec, Overlay, Work, Console, the logs), with its manifest and the files of
// the driver that froze it.
func (h Home) Templates() string { return filepath.Join(h.State, "templates") }

// Template returns the directory of the template called key.
func (h Home) Template(key string) Instance { return Instance(filepath.Join(h.Templates(), key)) }

// TemplatesLock is held (flock) by who makes a template, or removes what is left of
// one: one at a time. It lies with them: homes that share the directory share it.
func (h Home) TemplatesLock() string { return filepath.Join(h.Templates(), "lock") }

// Initramfs holds the initramfs built per kernel and agent build.
func (h Home) Initramfs() string { return filepath.Join(h.Cache, "initramfs") }

// Debs holds downloaded Debian packages, one directory per suite.
func (h Home) Debs() string { return filepath.Join(h.Cache, "debs") }

// Apt holds the private apt directories, one per suite.
func (h Home) Apt() string { return filepath.Join(h.Cache, "apt") }

// Instance returns the directory of VM id.
func (h Home) Instance(id string) Instance { return Instance(filepath.Join(h.VMs(), id)) }

// TempPrefix starts the name of everything that is not finished yet. What
// carries it belongs to an operation, or is a leftover.
const TempPrefix = ".tmp-"

// Temp is the unfinished form of a path: the same directory, TempPrefix before
// the name. It is renamed to path when it is whole.
func Temp(path string) string {
	return filepath.Join(filepath.Dir(path), TempPrefix+filepath.Base(path))
}

// BootMark begins the line in a console log that a new boot starts with.
const BootMark = "=== banger boot "

// Instance is the directory of one VM. Its mode is 0700.
type Instance string

// Dir is the directory itself.
func (i Instance) Dir() string { return string(i) }

func (i Instance) file(name string) string { return filepath.Join(string(i), name) }

// Spec is what the supervisor runs (banger.vm.v1.Spec as JSON).
func (i Instance) Spec() string { return i.file("spec.json") }

// Overlay is the writable system disk.
func (i Instance) Overlay() string { return i.file("overlay.ext4") }

// Work is the disk mounted at /root.
func (i Instance) Work() string { return i.file("work.ext4") }

// NewDisks is where disks are made that replace those of a VM: laid out like it.
func (i Instance) NewDisks() Instance { return Instance(Temp(i.file("disks"))) }

// Console is the guest's console, as the supervisor kept it.
func (i Instance) Console() string { return i.file("console.log") }

// SupervisorLog is the supervisor's own log.
func (i Instance) SupervisorLog() string { return i.file("supervisor.log") }

// PolicyLog says what the VM's policy refused, one JSON object a line.
func (i Instance) PolicyLog() string { return i.file("policy.log") }

// SupervisorLock is held (flock) by the living supervisor.
func (i Instance) SupervisorLock() string { return i.file("supervisor.lock") }

// VMMLog is what the VMM printed.
func (i Instance) VMMLog() string { return i.file("vmm.log") }

// VMM is the handle by which a successor finds the VMM.
func (i Instance) VMM() string { return i.file("vmm.json") }

// Booted exists once the guest of this run knows who it is.
func (i Instance) Booted() string { return i.file("booted") }

// Paused exists while the guest is to stand still.
func (i Instance) Paused() string { return i.file("paused") }

// Spare exists while the VM is a spare: a copy of a template that waits to become
// somebody's. It is its daemon's, has no record, and ends with it.
func (i Instance) Spare() string { return i.file("spare") }

// TemplateManifest says what a template is, as JSON; it is written last.
func (i Instance) TemplateManifest() string { return i.file("template.json") }

// Settled is what the guest of a template said of its init system.
func (i Instance) Settled() string { return i.file("settled.json") }

// Memory and DeviceState are the frozen guest of a template.
func (i Instance) Memory() string      { return i.file("memory") }
func (i Instance) DeviceState() string { return i.file("devices") }

// Exit is how the last run ended, written by the supervisor as it leaves.
func (i Instance) Exit() string { return i.file("exit.json") }

// Socket is the supervisor's API.
func (i Instance) Socket() string { return i.file("vm.sock") }

// Link is the supervisor's door to guest ports.
func (i Instance) Link() string { return i.file("link.sock") }

// The sockets that the VMM serves.
func (i Instance) QMP() string          { return i.file("qmp.sock") }
func (i Instance) GuestCtl() string     { return i.file("ctl.sock") }
func (i Instance) GuestData() string    { return i.file("data.sock") }
func (i Instance) GuestNet() string     { return i.file("net.sock") }
func (i Instance) GuestConsole() string { return i.file("console.sock") }

// Supervisor is the name of the supervisor's binary.
const Supervisor = "banger-vm"

// Companion returns the path of another binary of the same build: beside the
// running one.
func Companion(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "%s is missing beside %s", name, self).WithHint("make install")
	}
	return path, nil
}
