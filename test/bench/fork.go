package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
)

const (
	// atOnce and many are how many VMs start from one template together.
	atOnce, many = 10, 100
	// forkMemory is what one fork may take of the host's memory, in MiB, with its
	// supervisor, while it starts.
	forkMemory = 80
)

// forks measures VMs from a template, from the start of the command to the answer
// of the agent, against a bare QEMU that restores the same template.
func (b *bench) forks(ctx context.Context) ([]row, error) {
	machine, err := b.warmed(ctx)
	if err != nil {
		return nil, err
	}
	bare := func(n int) probe {
		return func(ctx context.Context) (float64, error) { return machine.restoreAtOnce(ctx, n) }
	}
	const name = "bare QEMU, same devices and template, to its first byte"
	one := row{Name: "fork of a template to first answer", Unit: "ms"}
	one, err = one.measured(ctx, b.n, b.forkAtOnce(1), yard{name: name, limit: 1.5, probe: bare(1)})
	if err != nil {
		return nil, err
	}
	ten := row{Name: fmt.Sprintf("%d forks of one template at once, all answering", atOnce), Unit: "ms", Limit: 1500}
	ten, err = ten.measured(ctx, few(b.n), b.forkAtOnce(atOnce), yard{name: fmt.Sprintf("%d × %s", atOnce, name), probe: bare(atOnce)})
	if err != nil {
		return []row{one}, err
	}
	if !b.scale {
		return []row{one, ten}, nil
	}
	all := row{Name: fmt.Sprintf("%d forks of one template at once, all answering", many), Unit: "ms", Limit: 15_000}
	if err := roomFor(many); err != nil {
		all.Absent = oneLine(err)
		return []row{one, ten, all}, nil
	}
	samples, err := sample(ctx, 1, b.forkAtOnce(many))
	if err != nil {
		return []row{one, ten}, err
	}
	all.Samples = samples[0]
	return []row{one, ten, all}, nil
}

// warmed makes the template of the VMs of this run, and returns the bare machine
// that starts from it too.
func (b *bench) warmed(ctx context.Context) (m bareMachine, err error) {
	if err := b.home.run(ctx, "image", "warm"); err != nil {
		return m, err
	}
	const name = "forked"
	forked, err := b.home.start(ctx, "vm", "create", "--json", "--name", name)
	if err != nil {
		return m, err
	}
	key, err := b.templateOf(forked)
	if err == nil {
		m, err = b.frozenMachine(forked, key)
	}
	return m, errors.Join(err, b.home.run(ctx, "vm", "delete", "--force", name))
}

// forkAtOnce samples n VMs that are made at once, until the agents of all have
// answered.
func (b *bench) forkAtOnce(n int) probe {
	return func(ctx context.Context) (_ float64, err error) {
		var all sync.WaitGroup
		answered, failed, deletes := make([]time.Time, n), make([]error, n), []string{"vm", "delete", "--force"}
		start := time.Now()
		for i := range n {
			name := "fork-" + strconv.Itoa(i)
			deletes = append(deletes, name)
			all.Go(func() { answered[i], failed[i] = b.fork(ctx, name) })
		}
		all.Wait()
		last := start
		for _, at := range answered {
			if at.After(last) {
				last = at
			}
		}
		return millis(last.Sub(start)), errors.Join(errors.Join(failed...), b.home.run(ctx, deletes...))
	}
}

// fork makes a VM from a template, and returns when its agent answered.
func (b *bench) fork(ctx context.Context, name string) (time.Time, error) {
	cmd := b.home.command(ctx, "vm", "create", "--name", name, "--json", "--progress=json")
	var stdout, said bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return time.Time{}, err
	}
	if err := cmd.Start(); err != nil {
		return time.Time{}, err
	}
	answered, readErr := finished(io.TeeReader(stderr, &said), "agent")
	_, drainErr := io.Copy(&said, stderr)
	if err := errors.Join(cmd.Wait(), readErr, drainErr); err != nil {
		return answered, fmt.Errorf("vm create: %w\n%s", err, said.Bytes())
	}
	var made vm
	if err := json.Unmarshal(stdout.Bytes(), &made); err != nil {
		return answered, err
	}
	if made.Origin != fromTemplate {
		return answered, fmt.Errorf("vm %q began by %q, not from a template", name, made.Origin)
	}
	return answered, nil
}

// roomFor reports whether the host's memory holds n forks.
func roomFor(n int) error {
	text, err := valueOf("/proc/meminfo", "MemAvailable")
	if err != nil {
		return err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(text, " kB"), 10, 64)
	if err != nil {
		return err
	}
	if need := int64(n) * forkMemory * banger.MiB; kib*1024 < need {
		return fmt.Errorf("%d forks may take %s of memory, and the host has %s", n, banger.FormatSize(need), banger.FormatSize(kib*1024))
	}
	return nil
}
