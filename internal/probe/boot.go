package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// bootTime is how long a kernel may take under KVM. It takes less than a
// second; a KVM that cannot run one often hangs.
const bootTime = 10 * time.Second

// trial is one boot in QEMU.
type trial struct {
	bin, self, accel string
	// kernel is the real one to boot to an /init of ours; empty: tinyKernel.
	kernel string
	// initrd, if set, is unpacked before ours, as a VM's would be.
	initrd  string
	seccomp bool
}

// outcome of a trial.
type outcome struct {
	booted bool
	// problem says why not, in words of QEMU or ours.
	problem string
	// layers of confinement under which it ran.
	layers []string
}

// run boots once. The error is of the trial itself, not of what it tried.
func (t trial) run(ctx context.Context) (o outcome, err error) {
	dir, err := os.MkdirTemp("", "banger-probe-")
	if err != nil {
		return o, err
	}
	defer os.RemoveAll(dir)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return o, err
	}
	defer log.Close()
	args, err := t.arguments(dir)
	if err != nil {
		return o, err
	}
	started, err := confine.Start(confine.Program{
		Self: t.self, Path: t.bin, Args: args, Dir: dir, Output: log, Policy: t.policy(dir),
	})
	if err != nil {
		return o, err
	}
	defer started.Drop()
	o.layers = started.Layers
	code, err := await(ctx, started)
	late := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	if err != nil && !late {
		return o, err
	}
	o.booted = code == kernelCode
	if t.kernel != "" {
		o.booted = said(filepath.Join(dir, consoleFile), initWord)
	}
	if !o.booted {
		o.problem = problem(late, vmmproc.Tail(log.Name(), 2))
	}
	return o, nil
}

// problem says why a kernel did not boot.
func problem(late bool, words string) string {
	switch {
	case late:
		return fmt.Sprintf("it did not run a kernel within %s", bootTime)
	case words == "":
		return "the kernel that it ran ended early"
	}
	return words
}

// maxConsole bounds what is read of a guest's console, in bytes: a kernel that
// is told to be quiet says a few lines.
const maxConsole = 1 << 20

// consoleFile is the guest's console in the directory of a trial.
const consoleFile = "console"

// said reports whether the file at path contains word.
func said(path, word string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConsole))
	return err == nil && bytes.Contains(data, []byte(strings.TrimSpace(word)))
}

// arguments writes the payload to dir, and returns QEMU's command line.
func (t trial) arguments(dir string) ([]string, error) {
	args := append(qemu.BaseArguments(t.accel), "-m", "256M")
	if t.seccomp {
		args = append(args, "-sandbox", qemu.Sandbox)
	}
	if t.kernel == "" {
		kernel := filepath.Join(dir, "kernel")
		args = append(args, "-kernel", kernel, "-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", debugPort))
		return args, os.WriteFile(kernel, tinyKernel(), 0o600)
	}
	initrd := filepath.Join(dir, "initrd")
	args = append(args, "-kernel", t.kernel, "-initrd", initrd, "-append", qemu.CommandLine(t.accel),
		"-chardev", "file,id=console,path="+consoleFile, "-device", "isa-serial,chardev=console")
	return args, writeInitrd(initrd, t.initrd)
}

// writeInitrd writes our initramfs to path, after the one at first. The kernel
// unpacks both, and ours has the last word on /init.
func writeInitrd(path, first string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var size int64
	if first != "" {
		in, err := os.Open(first)
		if err != nil {
			return err
		}
		defer in.Close()
		if size, err = io.Copy(f, in); err != nil {
			return err
		}
	}
	if _, err := f.Write(make([]byte, (4-size%4)%4)); err != nil {
		return err
	}
	_, err = f.Write(initramfs())
	return err
}

func (t trial) policy(dir string) confine.Policy {
	p := confine.Policy{
		WriteDirs: []string{dir},
		ReadDirs:  []string{"/usr", "/lib", "/lib64", filepath.Dir(filepath.Dir(t.bin)) + "/share"},
		ReadFiles: []string{t.bin, "/etc/ld.so.cache", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"},
		Devices:   []string{"/dev/null", "/dev/urandom", "/dev/kvm"},
	}
	if t.kernel != "" {
		p.ReadFiles = append(p.ReadFiles, t.kernel)
	}
	return p
}

// await lets the VMM go, and returns its exit code. The error is
// context.DeadlineExceeded when bootTime is over. No VMM is left.
func await(ctx context.Context, started *confine.Started) (int, error) {
	handle, err := vmmproc.NewHandle("probe", started.PID)
	if err != nil {
		return 0, errors.Join(err, started.Abandon())
	}
	proc, err := vmmproc.Open(handle)
	if err != nil {
		return 0, errors.Join(err, started.Abandon())
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	err = started.Open()
	if err == nil {
		err = proc.Wait(ctx)
	}
	if err := errors.Join(err, vmmproc.Destroy(proc)); err != nil {
		return 0, err
	}
	return proc.ExitCode(), nil
}
