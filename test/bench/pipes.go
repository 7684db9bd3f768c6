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
	bare, err := machine.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, bare.close()) }()
	if err := bare.await("bench: raw"); err != nil {
		return nil, err
	}
	raw := rawPorts{bare}
	out := row{Name: "pipe out of the guest (exec head -c 64M /dev/zero)", Unit: "MiB/s", HigherIsBetter: true}
	in := row{Name: "pipe into the guest (exec cat >/dev/null)", Unit: "MiB/s", HigherIsBetter: true}
	if out, err = out.measured(ctx, b.n, b.execOut, yard{name: "raw port", limit: 0.7, probe: raw.out}); err != nil {
		return nil, err
	}
	if in, err = in.measured(ctx, b.n, b.execIn, yard{name: "raw port", limit: 0.7, probe: raw.in}); err != nil {
		return []row{out}, err
	}
	return []row{out, in}, nil
}

// rawMachine boots rawGuest, which finds the image of the VMs of this run on the
// first disk.
func (b *bench) rawMachine(ctx context.Context) (bareMachine, error) {
	init := filepath.Join(b.home.dir, "raw-init")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", init, rawGuest)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return bareMachine{}, fmt.Errorf("build %s: %w\n%s", rawGuest, err, out)
	}
	return b.booting(ctx, init, true)
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
	ctl, data := r.conns["ctl"], r.conns["data"]
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
