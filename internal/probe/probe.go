// Package probe finds out what can run VMs on this host, by running one.
//
// A /dev/kvm may be absent, forbidden, or open and still unable to run an
// ordinary kernel: nested virtualisation and some container hosts give such
// ones. So KVM counts as usable only if a kernel booted to its /init under it.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/layout"
)

// kvmDevice is how KVM is reached.
const kvmDevice = "/dev/kvm"

// versionTime bounds `qemu --version`.
const versionTime = 20 * time.Second

// Options of Run.
type Options struct {
	Home layout.Home
	// QEMUBin is the program; empty: looked up in PATH.
	QEMUBin string
	// Self is the banger-vm that confines QEMU; empty: the running program.
	Self string
	// Kernel is a real vmlinux to boot under KVM; empty: a tiny one of our own,
	// which proves less.
	Kernel string
	// Initrd, if set, is unpacked by Kernel as a VM's would be.
	Initrd string
	// Fresh probes even if the outcome is known.
	Fresh bool
	Log   *slog.Logger
}

// Result is what was found.
type Result struct {
	QEMU QEMU `json:"qemu"`
	KVM  KVM  `json:"kvm"`
	// Confinement are the layers that contain a VMM here, strongest first, and
	// Unconfined those of a full confinement that this host does not give.
	Confinement []string `json:"confinement"`
	Unconfined  []string `json:"unconfined"`
	// Accel is the accelerator to use: "kvm" or "tcg".
	Accel string `json:"accel"`
	// Probed is when this was found.
	Probed time.Time `json:"probed"`
}

// QEMU is the emulator.
type QEMU struct {
	// Path is empty if there is none.
	Path    string `json:"path"`
	Version string `json:"version"`
	// Problem says why it cannot be used; empty if it can. Hint is the
	// command that mends it, if one does.
	Problem string `json:"problem,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// KVM is the kernel's virtualisation.
type KVM struct {
	Usable bool `json:"usable"`
	// Reason says why it is not usable, or what proved that it is.
	Reason string `json:"reason"`
	// Hint is the command that mends it, if one does.
	Hint string `json:"hint,omitempty"`
}

// Run probes, or returns what an earlier run found on this boot of the host, if
// nothing that matters has changed. What cannot be used is part of the result;
// the error is for a probe that could not be made.
func Run(ctx context.Context, o Options) (Result, error) {
	bin, findErr := qemu.FindBinary(o.QEMUBin)
	key := makeKey(o, bin)
	if known, ok := load(o.Home, key); ok && !o.Fresh {
		return known, nil
	}
	result := Result{Accel: "tcg", Confinement: []string{}, Unconfined: []string{}, Probed: time.Now().UTC()}
	if findErr != nil {
		result.QEMU = QEMU{Problem: "QEMU is not installed", Hint: "sudo apt-get install qemu-system-x86"}
		if result.KVM = accessKVM(); result.KVM.Reason == "" {
			result.KVM.Reason = "not tried: there is no QEMU to try it with"
		}
		return result, nil // an installation changes this: it is not kept
	}
	if err := result.tryQEMU(ctx, o, bin); err != nil {
		return Result{}, err
	}
	if err := result.tryKVM(ctx, o, bin); err != nil {
		return Result{}, err
	}
	if result.KVM.Usable {
		result.Accel = "kvm"
	}
	if err := save(o.Home, key, result); err != nil {
		o.Log.Warn("the outcome of the probe is not kept", "err", err)
	}
	return result, nil
}

// tryQEMU runs QEMU's own emulation, confined as a VM would be.
func (r *Result) tryQEMU(ctx context.Context, o Options, bin string) error {
	r.QEMU.Path = bin
	r.QEMU.Version = version(ctx, bin)
	t := trial{bin: bin, self: o.Self, accel: "tcg", seccomp: true}
	out, err := t.run(ctx)
	if err == nil && qemu.NoSandbox(out.problem) {
		t.seccomp = false
		out, err = t.run(ctx)
	}
	if err != nil {
		return fmt.Errorf("probe QEMU: %w", err)
	}
	if !out.booted {
		r.QEMU.Problem = out.problem
	}
	if t.seccomp {
		r.Confinement = append(r.Confinement, confine.Seccomp)
	}
	r.Confinement = append(r.Confinement, out.layers...)
	r.Unconfined = append(r.Unconfined, confine.Missing(r.Confinement)...)
	return nil
}

// tryKVM boots a kernel under KVM, if it may be opened.
func (r *Result) tryKVM(ctx context.Context, o Options, bin string) error {
	if r.KVM = accessKVM(); r.KVM.Reason != "" {
		return nil
	}
	t := trial{
		bin: bin, self: o.Self, accel: "kvm", kernel: o.Kernel, initrd: o.Initrd,
		seccomp: slices.Contains(r.Confinement, confine.Seccomp),
	}
	out, err := t.run(ctx)
	if err != nil {
		return fmt.Errorf("probe KVM: %w", err)
	}
	if !out.booted {
		r.KVM.Reason = kvmDevice + " opens, but cannot run an ordinary kernel: " + plain(out.problem)
		return nil
	}
	r.KVM.Usable = true
	r.KVM.Reason = "a kernel booted under it"
	if o.Kernel == "" {
		r.KVM.Reason = "a test program ran under it (no kernel is installed yet)"
	}
	return nil
}

// plain shortens QEMU's words to one line without its name.
func plain(words string) string {
	words = strings.ReplaceAll(words, "qemu-system-x86_64: ", "")
	if len(words) > 200 {
		words = words[:200] + "…"
	}
	return words
}

// accessKVM says why the device cannot be opened; the reason is empty if it can.
func accessKVM() KVM {
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return KVM{}
	case errors.Is(err, fs.ErrNotExist):
		return KVM{Reason: kvmDevice + " does not exist: the CPU's virtualisation is not there, is switched off in the " +
			"firmware, or belongs to the hypervisor of this machine"}
	case errors.Is(err, fs.ErrPermission):
		return forbidden()
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return KVM{Reason: fmt.Sprintf("%s cannot be opened: %v", kvmDevice, err), Hint: "sudo modprobe kvm_intel || sudo modprobe kvm_amd"}
}

// forbidden names the group to join.
func forbidden() KVM {
	name := "you"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	var st unix.Stat_t
	if err := unix.Stat(kvmDevice, &st); err != nil {
		return KVM{Reason: fmt.Sprintf("%s may not be opened by %s", kvmDevice, name)}
	}
	k := KVM{Reason: fmt.Sprintf("%s may not be opened by %s (its mode is %04o)", kvmDevice, name, st.Mode&0o7777)}
	group, err := user.LookupGroupId(strconv.Itoa(int(st.Gid)))
	if err == nil && st.Gid != 0 && st.Mode&0o060 == 0o060 {
		k.Hint = fmt.Sprintf("sudo usermod -aG %s %s, then log in again", group.Name, name)
		return k
	}
	k.Hint = fmt.Sprintf("sudo setfacl -m u:%s:rw %s", name, kvmDevice)
	return k
}

// version is what QEMU calls itself, without the copyright.
func version(ctx context.Context, bin string) string {
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, bin, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	line = strings.TrimPrefix(line, "QEMU emulator version ")
	return line[:min(len(line), 100)]
}
