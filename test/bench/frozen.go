package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
)

// together is how many forks share their template when their memory is measured.
const together = 4

// frozenMemory is the shape that freezes are measured with, in MiB.
const frozenMemory = 512

// freezes measures how long a settled VM stands still until it is a template on
// disk: of as many shapes as samples, because each is frozen once.
func (b *bench) freezes(ctx context.Context) ([]row, error) {
	size := 9 * int64(banger.GiB)
	freeze := func(ctx context.Context) (float64, error) {
		size += banger.GiB
		err := b.home.run(ctx, "image", "warm", "--memory", fmt.Sprintf("%dM", frozenMemory),
			"--disk-size", banger.FormatSize(size))
		if err != nil {
			return 0, err
		}
		home, err := b.home.layout()
		if err != nil {
			return 0, err
		}
		return freezeTime(home.DaemonLog())
	}
	samples, err := sample(ctx, few(b.n), freeze)
	if err != nil {
		return nil, err
	}
	return []row{{Name: fmt.Sprintf("freeze of a settled %d MiB VM", frozenMemory), Unit: "ms", Limit: 500, Samples: samples[0]}}, nil
}

// frozenLine is what the maker of a template logs; its log stands in the daemon's,
// quoted.
var frozenLine = regexp.MustCompile(`the guest is frozen\\?" took_ms=([0-9]+)`)

// freezeTime reads that of the last template, in ms.
func freezeTime(log string) (float64, error) {
	text, err := os.ReadFile(log)
	if err != nil {
		return 0, err
	}
	all := frozenLine.FindAllSubmatch(text, -1)
	if len(all) == 0 {
		return 0, fmt.Errorf("%s does not say how long the freeze took", log)
	}
	return strconv.ParseFloat(string(all[len(all)-1][1]), 64)
}

// memory measures what idle forks of one template hold for themselves.
func (b *bench) memory(ctx context.Context) ([]row, error) {
	if err := b.home.run(ctx, "image", "warm"); err != nil {
		return nil, err
	}
	vmms := row{Name: fmt.Sprintf("idle fork, VMM, PSS, %d at once", together), Unit: "MiB", Limit: 45}
	supervisors := row{Name: fmt.Sprintf("idle fork, supervisor, PSS, %d at once", together), Unit: "MiB", Limit: 15}
	for range few(b.n) {
		vmm, supervisor, err := b.fourForks(ctx)
		if err != nil {
			return nil, err
		}
		vmms.Samples, supervisors.Samples = append(vmms.Samples, vmm), append(supervisors.Samples, supervisor)
	}
	return []row{vmms, supervisors}, nil
}

// fourForks makes forks, and returns the mean of each one's share, in MiB.
func (b *bench) fourForks(ctx context.Context) (vmm, supervisor float64, err error) {
	f := fleet{bench: b, prefix: "idle-"}
	defer func() { err = errors.Join(err, f.end(ctx)) }()
	if err := f.grow(ctx, together); err != nil {
		return 0, 0, err
	}
	vmm, err = f.each(func(v vm) (float64, error) { return share(v.VMMPID) })
	if err != nil {
		return 0, 0, err
	}
	supervisor, err = f.each(func(v vm) (float64, error) { return share(v.SupervisorPID) })
	return vmm, supervisor, err
}

// share is the proportional set size of a process, in MiB: what it has for itself,
// and its part of what it shares.
func share(pid int) (float64, error) {
	text, err := valueOf(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
	if err != nil {
		return 0, err
	}
	kib, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
	return kib / 1024, err
}
