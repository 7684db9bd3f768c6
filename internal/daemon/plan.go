package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/sshkey"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/vmhost"
)

const (
	// minMemoryMiB is what a Debian guest boots in at all.
	minMemoryMiB = 128
	// minDiskBytes is the least that a work disk or an overlay may have.
	minDiskBytes = 64 * banger.MiB
	// maxDiskBytes is the largest ext4 that an ordinary host file system holds
	// as a sparse file.
	maxDiskBytes = 16 * banger.TiB
	// minFreeBytes must be left on the host: a VM that fills it up harms all.
	minFreeBytes = 256 * banger.MiB
)

// plan makes the record of a new VM from a request and the defaults, and checks
// it against the host. It changes nothing.
func (d *Daemon) plan(req *bangerv1.CreateVMRequest) (store.VM, error) {
	cfg, err := d.opts.Config()
	if err != nil {
		return store.VM{}, err
	}
	def := config.Resolve(cfg, d.opts.Host)
	rec := store.VM{
		ID: banger.NewID(), Name: req.Name, State: banger.StateCreating, Created: time.Now(),
		Image: or(req.Image, def.Image.Value), Kernel: req.Kernel,
		VCPU: or(int(req.Vcpu), def.VCPU.Value), MemoryMiB: or(req.MemoryMib, def.MemoryMiB.Value),
		DiskBytes: or(req.DiskBytes, def.DiskBytes.Value), OverlayBytes: or(req.OverlayBytes, def.OverlayBytes.Value),
		NAT: def.NAT.Value, Ephemeral: req.Ephemeral, Cold: req.Cold,
		WantDriver: req.Driver, WantAccel: req.Accel, MachineID: banger.NewID(),
	}
	if rec.Expires, err = expiry(rec.Created, req.TtlMs); err != nil {
		return rec, err
	}
	rules, nat, err := choosePolicy(wantedPolicy{policy: req.Policy, allow: req.Allow, nat: req.Nat}, rec.NAT)
	if err != nil {
		return rec, err
	}
	rec.NAT, rec.Policy = nat, rules.Marshal()
	rec.Publish, err = takePublish(req.Publish)
	if err == nil && !req.NoStart {
		err = checkFree(rec.Publish)
	}
	if err != nil {
		return rec, err
	}
	for _, check := range []func(*store.VM) error{d.checkNames, d.checkShape, d.checkHost} {
		if err := check(&rec); err != nil {
			return rec, err
		}
	}
	return rec, nil
}

// or is value, or fallback where it is zero.
func or[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

// checkNames checks the names, and sets the kernel to the image's own.
func (d *Daemon) checkNames(rec *store.VM) error {
	if rec.Name != "" {
		if err := banger.CheckName("vm", rec.Name); err != nil {
			return err
		}
	}
	kernel, err := d.opts.Assets.KernelOf(rec.Image)
	if err != nil {
		return err
	}
	rec.Kernel = or(rec.Kernel, kernel)
	_, err = d.opts.Assets.KernelLocal(rec.Kernel)
	return err
}

func (d *Daemon) checkShape(rec *store.VM) error {
	usage := func(format string, args ...any) *banger.Error {
		return banger.Errorf(banger.CodeUsage, format, args...)
	}
	cpus, hostMiB := d.opts.Host.CPUs, d.opts.Host.MemoryBytes/banger.MiB
	switch {
	case rec.VCPU < 1 || rec.VCPU > cpus:
		return usage("%d vcpu is not possible: this host has %d CPUs", rec.VCPU, cpus).WithHint("--vcpu 1 to %d", cpus)
	case rec.MemoryMiB < minMemoryMiB:
		return usage("%d MiB of memory is too little for a guest", rec.MemoryMiB).WithHint("--memory 512M, at least %dM", minMemoryMiB)
	case hostMiB > 0 && rec.MemoryMiB > hostMiB:
		return usage("%d MiB of memory is more than this host has (%d MiB)", rec.MemoryMiB, hostMiB).WithHint("--memory %dM", hostMiB/2)
	}
	for what, bytes := range map[string]int64{"--disk-size": rec.DiskBytes, "--system-overlay-size": rec.OverlayBytes} {
		if bytes < minDiskBytes || bytes > maxDiskBytes {
			return usage("%s %s is not possible: it is %s to %s", what, banger.FormatSize(max(bytes, 0)),
				banger.FormatSize(minDiskBytes), banger.FormatSize(maxDiskBytes)).WithHint("%s 8G", what)
		}
	}
	return nil
}

// checkHost checks what the host must have for any VM.
func (d *Daemon) checkHost(rec *store.VM) error {
	if err := oneOf("driver", rec.WantDriver, "auto", "qemu"); err != nil {
		return err
	}
	if err := oneOf("accel", rec.WantAccel, "auto", "kvm", "tcg"); err != nil {
		return err
	}
	if _, err := d.qemuBin(); err != nil {
		return err
	}
	free, err := d.opts.Assets.Free(d.opts.Home.State)
	if err == nil && free < minFreeBytes {
		return banger.Errorf(banger.CodeUnavailable, "no space for a VM: %s has %s left", d.opts.Home.State, banger.FormatSize(free)).
			WithHint("banger vm list -a, and delete what is not needed; or BANGER_HOME on another disk")
	}
	return nil
}

func oneOf(what, value string, known ...string) error {
	if value == "" {
		return nil
	}
	for _, k := range known {
		if k == value {
			return nil
		}
	}
	return banger.Errorf(banger.CodeUsage, "%s %q is not known: %v", what, value, known).WithHint("--%s auto", what)
}

// qemuBin is the path of QEMU.
func (d *Daemon) qemuBin() (string, error) {
	cfg, err := d.opts.Config()
	if err != nil {
		return "", err
	}
	name := or(cfg.QEMUBin, "qemu-system-"+qemuArch(runtime.GOARCH))
	path, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(path)
	}
	if cfg.QEMUBin != "" {
		return "", banger.Errorf(banger.CodeUnavailable, "qemu_bin = %q is not a program: %w", name, unwrapExec(err)).
			WithHint("edit %s", d.opts.Home.ConfigFile())
	}
	return "", banger.Errorf(banger.CodeUnavailable, "QEMU is not installed: %s is not in PATH", name).
		WithHint("sudo apt-get install qemu-system-x86")
}

func unwrapExec(err error) error {
	if e, ok := err.(*exec.Error); ok {
		return e.Err
	}
	return err
}

func qemuArch(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return goarch
}

// accel decides how the VM runs. With "auto" or "kvm" it asks the probe, which
// is slow once per boot of the host; kernel makes its answer surer.
func (d *Daemon) accel(ctx context.Context, rec store.VM, kernel *Kernel) (string, error) {
	cfg, err := d.opts.Config()
	if err != nil {
		return "", err
	}
	want := or(or(rec.WantAccel, cfg.Accel), "auto")
	if want == "tcg" {
		return want, nil
	}
	found, err := d.probed(ctx, cfg.QEMUBin, kernel)
	if err != nil {
		return "", banger.Errorf(banger.CodeUnavailable, "what can run VMs here is not known: %w", err).WithHint("banger doctor")
	}
	if want == "kvm" && !found.KVM.Usable {
		return "", banger.Errorf(banger.CodeUnavailable, "KVM is not usable: %s", found.KVM.Reason).WithHint("--accel tcg")
	}
	if want == "kvm" {
		return want, nil
	}
	return found.Accel, nil
}

// probed returns the probe's result. It is asked once per kernel and life of
// the daemon; banger-vm itself remembers it for the boot of the host.
func (d *Daemon) probed(ctx context.Context, qemu string, kernel *Kernel) (vmhost.Found, error) {
	key := qemu + "\x00"
	if kernel != nil {
		key += kernel.Vmlinux
	}
	d.probing.Lock()
	defer d.probing.Unlock()
	if known, ok := d.probes[key]; ok {
		if _, err := os.Stat(known.QEMU.Path); err == nil {
			return known, nil
		}
	}
	found, err := d.opts.Assets.Probe(ctx, kernel)
	if err == nil && found.QEMU.Path != "" {
		d.probes[key] = found
	}
	return found, err
}

// identity makes the keys of a new VM.
func identity(rec *store.VM) error {
	key, err := sshkey.Generate(rec.Name)
	if err != nil {
		return fmt.Errorf("host key: %w", err)
	}
	rec.HostKey = key
	return nil
}
