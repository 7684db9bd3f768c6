package qemu

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/process"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// script makes a stand-in for QEMU.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), binName)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func machine(t *testing.T, bin string) driver.Machine {
	t.Helper()
	dir := t.TempDir()
	kernel := filepath.Join(dir, "vmlinux")
	if err := os.WriteFile(kernel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The stand-ins are scripts: a confined one needs its file, and its shell.
	return driver.Machine{ID: "x", VCPU: 1, MemoryMiB: 64, Accel: "tcg", Kernel: kernel, Dir: dir, Bin: bin,
		Readable: []string{filepath.Dir(bin), "/bin"}}
}

// tryStart starts m, and checks that nothing is left of it.
func tryStart(t *testing.T, m driver.Machine) error {
	t.Helper()
	var pid int
	var start uint64
	vm, err := New(Options{Log: discard()}).Start(t.Context(), m, func(h driver.Handle) error {
		pid, start = h.PID, h.StartTime
		return nil
	})
	if vm != nil || err == nil {
		t.Fatalf("Start: %v, %v", vm, err)
	}
	if process.Alive(pid, start) {
		t.Errorf("process %d is left", pid)
	}
	return err
}

// Each failure names its cause and, if there is one, the next step.
func TestStartErrors(t *testing.T) {
	for name, test := range map[string]struct {
		says string // what QEMU prints as it ends
		want []string
		code banger.Code
	}{
		"no KVM": {"qemu-system-x86_64: Could not access KVM kernel module: No such file or directory",
			[]string{"no usable /dev/kvm", "--accel tcg"}, banger.CodeUnavailable},
		"forbidden KVM": {"qemu-system-x86_64: Could not access KVM kernel module: Permission denied",
			[]string{"may not be opened", "usermod -aG kvm"}, banger.CodeUnavailable},
		"KVM in name only": {"qemu-system-x86_64: error: failed to set MSR 0x10a to 0x69",
			[]string{"cannot run an ordinary CPU", "--accel tcg"}, banger.CodeUnavailable},
		"memory": {"qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory",
			[]string{"has not that much memory", "--memory"}, banger.CodeUnavailable},
		"disk in use": {`qemu-system-x86_64: -device x: Failed to get "write" lock`,
			[]string{"in use by another VMM"}, banger.CodeUnavailable},
		"anything else": {"qemu-system-x86_64: the moon is full",
			[]string{"the moon is full", "vmm.log"}, banger.CodeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			err := tryStart(t, machine(t, script(t, "echo '"+test.says+"' >&2; exit 1")))
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if banger.CodeOf(err) != test.code || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %q", banger.CodeOf(err), err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	bin := script(t, "exit 1")
	for name, test := range map[string]struct {
		change func(*driver.Machine)
		want   string
		code   banger.Code
	}{
		"no QEMU":   {func(m *driver.Machine) { m.Bin = "/no/such/qemu" }, installHint, banger.CodeUnavailable},
		"accel":     {func(m *driver.Machine) { m.Accel = "hax" }, "hax", banger.CodeUsage},
		"vcpu":      {func(m *driver.Machine) { m.VCPU = 0 }, "vcpu", banger.CodeUsage},
		"memory":    {func(m *driver.Machine) { m.MemoryMiB = 0 }, "memory", banger.CodeUsage},
		"kernel":    {func(m *driver.Machine) { m.Kernel += "x" }, "vmlinuxx: no such file", banger.CodeFailed},
		"initrd":    {func(m *driver.Machine) { m.Initrd = "/no/initrd" }, "/no/initrd", banger.CodeFailed},
		"disk":      {func(m *driver.Machine) { m.Disks = []driver.Disk{{Serial: "base", Path: "/no/disk"}} }, "/no/disk", banger.CodeFailed},
		"serial":    {func(m *driver.Machine) { m.Disks = []driver.Disk{{Serial: "a,b", Path: m.Kernel}} }, "a,b", banger.CodeUsage},
		"directory": {func(m *driver.Machine) { m.Dir += "/no" }, "no such file", banger.CodeFailed},
	} {
		m := machine(t, bin)
		test.change(&m)
		if err := tryStart(t, m); !strings.Contains(err.Error(), test.want) || banger.CodeOf(err) != test.code {
			t.Errorf("%s: %s: %v", name, banger.CodeOf(err), err)
		}
	}
}

// A QEMU without seccomp runs without, unless full confinement is required.
func TestNoSandbox(t *testing.T) {
	bin := script(t, `case "$*" in *-sandbox*) echo "qemu-system-x86_64: -sandbox on: sandbox support is not enabled in this QEMU binary"; exit 1;; esac; echo "no sandbox asked for"; exit 1`)
	m := machine(t, bin)
	if err := tryStart(t, m); !strings.Contains(err.Error(), "no sandbox asked for") {
		t.Error(err)
	}
	m.RequireConfinement = true
	if err := tryStart(t, m); !errors.Is(err, errNoSandbox) && banger.CodeOf(err) != banger.CodeUnavailable {
		t.Error(err)
	}
}

// Adopt leaves a VMM alone that it cannot speak to.
func TestAdoptWrongHandle(t *testing.T) {
	d := New(Options{Log: discard()})
	if _, err := d.Adopt(t.Context(), driver.Machine{}, driver.Handle{Driver: "fake"}); err == nil || errors.Is(err, driver.ErrGone) {
		t.Error(err)
	}
	if _, err := d.Adopt(t.Context(), driver.Machine{}, driver.Handle{Driver: Name, Private: []byte("{")}); err == nil {
		t.Error("a damaged handle")
	}
}

func TestArguments(t *testing.T) {
	m := machine(t, "/usr/bin/"+binName)
	m.Disks = []driver.Disk{
		{Serial: "base", Path: `/a,b="c"`, ReadOnly: true},
		{Serial: "work", Path: "/d"},
	}
	args, err := arguments(m, options{fd: 4, seccomp: true})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, " ")
	for _, want := range []string{
		`{"node-name":"disk-base","driver":"raw","read-only":true,"file":{"driver":"file","filename":"/a,b=\"c\""}}`,
		`"filename":"/d","discard":"unmap"`, "virtio-blk-pci,drive=disk-work,serial=work",
		"socket,id=qmp,fd=4,server=on,wait=off", "addr.type=fd,addr.str=7", "mac=" + banger.GuestMAC,
		"name=banger.ctl", "name=banger.data", "spawn=deny", " -S ", "-no-reboot", "tsc=reliable", "no_timer_check", "norandmaps", "mitigations=off", "nowatchdog", "psi=0",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	m.Accel = "kvm"
	if args, err = arguments(m, options{fd: 4}); err != nil {
		t.Fatal(err)
	}
	if all = strings.Join(args, " "); strings.Contains(all, "tsc=reliable") || strings.Contains(all, "norandmaps") || strings.Contains(all, "-sandbox") || !strings.Contains(all, "-cpu host") {
		t.Error(all)
	}
}

func TestTailWords(t *testing.T) {
	if err := startError("/nowhere", context.Canceled); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := startError("/nowhere", errEnded); !errors.Is(err, errEnded) || !strings.Contains(err.Error(), "printed nothing") {
		t.Error(err)
	}
}
