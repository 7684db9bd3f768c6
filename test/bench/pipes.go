package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/image"
	"github.com/banger-dev/banger/internal/initramfs"
)

// pipeBytes is how much goes through a pipe in one sample.
const pipeBytes = 64 << 20

// rawGuest is the package of the yardstick's /init.
const rawGuest = "github.com/banger-dev/banger/test/bench/rawguest"

// pipes measures the stdout and the stdin of a command in a VM, against a
// program in a guest that copies the pipe of the same command to and from a
// virtio-serial port, with nothing between.
func (b *bench) pipes(ctx context.Context) (_ []row, err error) {
	machine, err := b.rawMachine(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bare, err := machine.start(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	if err := bare.await("bench: raw"); err != nil {
		return nil, err
	}
	raw := rawPorts{bare}
	warm := []probe{raw.out, b.execOut, raw.in, b.execIn}
	if _, err := sample(ctx, 1, warm...); err != nil {
		return nil, err
	}
	samples, err := sample(ctx, b.n, warm...)
	if err != nil {
		return nil, err
	}
	made := func(name string, values, yard []float64) row {
		return row{Name: name, Unit: "MiB/s", HigherIsBetter: true, Limit: &limit{0.7, true},
			Samples: values, Yardstick: &yardstick{"raw port", yard}}
	}
	return []row{
		made("pipe out of the guest (exec head -c 64M /dev/zero)", samples[1], samples[0]),
		made("pipe into the guest (exec cat >/dev/null)", samples[3], samples[2]),
	}, nil
}

// rawMachine boots rawGuest with the image of the VMs of this run as a disk.
func (b *bench) rawMachine(ctx context.Context) (bareMachine, error) {
	m := bareMachine{shape: b.vm.shape}
	k, err := b.kernel()
	if err != nil {
		return m, err
	}
	m.vmlinux = k.Vmlinux()
	layout, err := b.home.layout()
	if err != nil {
		return m, err
	}
	base, err := image.New(image.Options{Home: layout, Log: discard()}).Get(b.vm.Image)
	if err != nil {
		return m, err
	}
	m.base = base.Base()
	init := filepath.Join(b.home.dir, "raw-init")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, rawGuest)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return m, fmt.Errorf("build %s: %w\n%s", rawGuest, err, out)
	}
	m.initrd, err = initramfs.Ensure(ctx, layout, initramfs.Kernel{SHA256: k.SHA256, Modules: k.Modules()}, init)
	return m, err
}

// speed is MiB/s.
func speed(start time.Time) float64 { return pipeBytes / float64(1<<20) / time.Since(start).Seconds() }

// execOut reads the stdout of a command in the VM.
func (b *bench) execOut(ctx context.Context) (float64, error) {
	cmd := b.home.command(ctx, "vm", "exec", "-i=false", b.vm.Name, "--", "head", "-c", "64M", "/dev/zero")
	var got counter
	cmd.Stdout = &got
	start := time.Now()
	err := finish(cmd)
	value := speed(start)
	if err == nil && got != pipeBytes {
		err = fmt.Errorf("%d bytes came, not %d", got, pipeBytes)
	}
	return value, err
}

// execIn writes the stdin of a command in the VM.
func (b *bench) execIn(ctx context.Context) (float64, error) {
	cmd := b.home.command(ctx, "vm", "exec", b.vm.Name, "--", "sh", "-c", "cat >/dev/null")
	cmd.Stdin = io.LimitReader(zeros{}, pipeBytes)
	start := time.Now()
	err := finish(cmd)
	return speed(start), err
}

// rawPorts asks rawGuest.
type rawPorts struct{ *bareVM }

func (r rawPorts) out(ctx context.Context) (float64, error) {
	return r.measured(ctx, "out", func(data io.ReadWriter) error {
		var got counter
		_, err := io.CopyN(&got, data, pipeBytes)
		return err
	})
}

func (r rawPorts) in(ctx context.Context) (float64, error) {
	return r.measured(ctx, "in", func(data io.ReadWriter) error {
		_, err := io.Copy(data, io.LimitReader(zeros{}, pipeBytes))
		return err
	})
}

// measured says verb to the guest, moves the bytes, and awaits the guest's word
// that its command has ended well.
func (r rawPorts) measured(ctx context.Context, verb string, move func(io.ReadWriter) error) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, bareTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		for _, conn := range r.conns {
			conn.SetDeadline(time.Unix(1, 0))
		}
	})
	defer stop()
	ctl, data := r.conns[bareCtl], r.conns[bareData]
	start := time.Now()
	if _, err := fmt.Fprintf(ctl, "%s %d\n", verb, pipeBytes); err != nil {
		return 0, err
	}
	if err := move(data); err != nil {
		return 0, err
	}
	answer, err := bufio.NewReader(ctl).ReadString('\n')
	value := speed(start)
	if err == nil && answer != "done\n" {
		err = fmt.Errorf("the raw guest: %s", strings.TrimSpace(answer))
	}
	return value, err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
