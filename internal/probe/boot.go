package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	args, want, err := t.arguments(dir)
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
	words := vmmproc.Tail(log.Name(), 2)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		o.problem = fmt.Sprintf("it did not run a kernel within %s", bootTime)
		return o, nil
	case err != nil:
		return o, err
	case code == want:
		o.booted = true
		return o, nil
	}
	if o.problem = words; words == "" {
		o.problem = "the kernel that it ran ended early"
	}
	return o, nil
}

// arguments writes the payload to dir, and returns the command line and the
// exit code of a boot that succeeded.
func (t trial) arguments(dir string) (args []string, want int, err error) {
	kernel := t.kernel
	want = initCode
	if kernel == "" {
		kernel, want = filepath.Join(dir, "kernel"), kernelCode
		if err := os.WriteFile(kernel, tinyKernel(), 0o600); err != nil {
			return nil, 0, err
		}
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, t.initrd); err != nil {
		return nil, 0, err
	}
	args = append(qemu.BaseArguments(t.accel), "-m", "256M",
		"-kernel", kernel, "-initrd", initrd, "-append", qemu.CommandLine(t.accel),
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", debugPort))
	if t.seccomp {
		args = append(args, "-sandbox", qemu.Sandbox)
	}
	return args, want, nil
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
