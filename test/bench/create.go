package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/banger-dev/banger/internal/initramfs"
	"github.com/banger-dev/banger/internal/kernel"
)

// create measures a cold VM, from the start of the command to the answer of the
// agent and to the end of the command, when the system is ready; against a bare
// QEMU with the same devices that boots the same kernel to the least /init.
func (b *bench) create(ctx context.Context) ([]row, error) {
	machine, err := b.bareMachine(ctx)
	if err != nil {
		return nil, err
	}
	var system []float64
	agent := func(ctx context.Context) (float64, error) {
		answer, ready, err := b.coldCreate(ctx)
		system = append(system, ready)
		return answer, err
	}
	r := row{Name: "cold create to agent answer", Unit: "ms"}
	r, err = r.measured(ctx, b.n, agent, yard{name: "bare QEMU, same devices, to /init", limit: 1.4, probe: machine.boot})
	if err != nil {
		return nil, err
	}
	// The first was not counted.
	ready := row{Name: "cold create to system ready", Unit: "ms", Samples: system[1:], Yardsticks: slices.Clone(r.Yardsticks)}
	ready.Yardsticks[0].Limit = 0
	return []row{r, ready}, nil
}

// bareMachine is like the VMs of this run, with the least that can be /init.
func (b *bench) bareMachine(ctx context.Context) (bareMachine, error) {
	init := filepath.Join(b.home.dir, "least-init")
	if err := writeLeastInit(init); err != nil {
		return bareMachine{}, err
	}
	// No modules: nothing would load them.
	return b.booting(ctx, init, false)
}

// booting is the machine of the VM of this run, with another program as /init.
func (b *bench) booting(ctx context.Context, init string, modules bool) (bareMachine, error) {
	m := bareMachine{scratch: b.home.dir, disks: b.vm.Dir}
	k, err := b.kernel()
	if err != nil {
		return m, err
	}
	layout, err := b.home.layout()
	if err != nil {
		return m, err
	}
	wanted := initramfs.Kernel{SHA256: k.SHA256}
	if modules {
		wanted.Modules = k.Modules()
	}
	initrd, err := initramfs.Ensure(ctx, layout, wanted, init)
	if err != nil {
		return m, err
	}
	line, err := commandLineOf(b.vm.VMMPID)
	m.commandLine = line.booting(initrd)
	return m, err
}

// kernel is the one that the VMs of this run boot.
func (b *bench) kernel() (kernel.Kernel, error) {
	layout, err := b.home.layout()
	if err != nil {
		return kernel.Kernel{}, err
	}
	return kernel.New(kernel.Options{Home: layout, Log: discard()}).Get(b.vm.Kernel)
}

// coldCreate makes a VM and deletes it. Times in ms.
func (b *bench) coldCreate(ctx context.Context) (agent, system float64, err error) {
	const name = "cold"
	cmd := b.home.command(ctx, "vm", "create", "--cold", "--name", name, "--progress=json")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	var said bytes.Buffer
	answered, readErr := finished(io.TeeReader(stderr, &said), "agent")
	_, drainErr := io.Copy(&said, stderr)
	err = cmd.Wait()
	system = millis(time.Since(start))
	if err := errors.Join(err, readErr, drainErr); err != nil {
		return 0, 0, fmt.Errorf("vm create: %w\n%s", err, said.Bytes())
	}
	return millis(answered.Sub(start)), system, b.home.run(ctx, "vm", "delete", "--force", name)
}

// progress is one JSON line of it.
type progress struct {
	Stage    string `json:"stage"`
	Finished bool   `json:"finished"`
}

// finished returns when a stage is reported as finished in JSON lines.
func finished(r io.Reader, stage string) (time.Time, error) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var p progress
		if err := json.Unmarshal(lines.Bytes(), &p); err == nil && p.Finished && p.Stage == stage {
			return time.Now(), nil
		}
	}
	return time.Time{}, fmt.Errorf("stage %q was never finished", stage)
}
