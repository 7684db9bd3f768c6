package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/banger-dev/banger/internal/atomicfile"
)

// Origins of a VM, as banger says them.
const (
	fromTemplate = "template"
	fromSpare    = "spare"
)

const (
	// loopRuns is how many runs one sample of the loop is the mean of, and
	// loopYard of the yardstick in the same turn.
	loopRuns, loopYard = 20, 5
	// spareTime bounds the wait for a spare, spareEvery is how often it is asked
	// for, and drainRuns how many runs may be needed until no spare is left.
	spareTime  = time.Minute
	spareEvery = 200 * time.Millisecond
	drainRuns  = 20
)

// runs measures `vm run --rm -- true`, the whole command, against what else runs
// true in a sandbox.
func (b *bench) runs(ctx context.Context) (_ []row, err error) {
	if err := b.home.run(ctx, "image", "warm"); err != nil {
		return nil, err
	}
	yards := b.sandboxes(ctx)
	podman, runsc, bwrap := yards[0], yards[1], yards[2]
	podman.limit = 0.9
	cold := row{Name: "vm run --rm -- true, from a template without a spare", Unit: "ms"}
	cold, err = cold.measured(ctx, b.n, b.runFrom(fromTemplate), podman, runsc, bwrap)
	if err != nil {
		return nil, err
	}
	warm := row{Name: "vm run --rm -- true, warm spare", Unit: "ms", Limit: 60}
	first := row{Name: fmt.Sprintf("the same, mean of a tight loop of %d that finds one spare", loopRuns), Unit: "ms"}
	loop := row{Name: fmt.Sprintf("the same, mean of a tight loop of %d after another", loopRuns), Unit: "ms"}
	if b.mostSpares == 0 {
		warm.Absent = "this build or host keeps no spares"
		loop.Absent, first.Absent = warm.Absent, warm.Absent
		return []row{warm, loop, first, cold}, nil
	}
	if err := b.keepSpares(true); err != nil {
		return []row{cold}, err
	}
	defer func() { err = errors.Join(err, b.keepSpares(false)) }()
	podman.limit, runsc.limit = 0.15, 0.25
	if warm, err = warm.measured(ctx, b.n, b.runSpare, podman, runsc, bwrap); err != nil {
		return []row{cold}, err
	}
	podman.limit, podman.probe = 0, mean(podman.probe, loopYard)
	if first, err = first.measured(ctx, few(b.n), b.runFirstLoop, podman); err != nil {
		return []row{warm, cold}, err
	}
	podman.limit = 0.5
	if loop, err = loop.measured(ctx, few(b.n), b.runLoop, podman); err != nil {
		return []row{warm, first, cold}, err
	}
	return []row{warm, loop, first, cold}, nil
}

// few is how many samples are taken of what takes seconds.
func few(n int) int { return max(3, n/3) }

// mean makes one sample of n.
func mean(one probe, n int) probe {
	return func(ctx context.Context) (float64, error) {
		var sum float64
		for range n {
			value, err := one(ctx)
			if err != nil {
				return 0, err
			}
			sum += value
		}
		return sum / float64(n), nil
	}
}

// began finds what `vm run -v` says of how the VM began.
var began = regexp.MustCompile(`started from a ([a-z]+)`)

// timedRun runs true in a fresh VM, and returns how long the command took, in ms,
// and how the VM began: "" if it booted.
func (b *bench) timedRun(ctx context.Context) (took float64, origin string, err error) {
	cmd := b.home.command(ctx, "vm", "run", "--rm", "-v", "--", "true")
	var said bytes.Buffer
	cmd.Stderr = &said
	start := time.Now()
	err = cmd.Run()
	took = millis(time.Since(start))
	if err != nil {
		return 0, "", fmt.Errorf("vm run: %w\n%s", err, said.Bytes())
	}
	if m := began.FindSubmatch(said.Bytes()); m != nil {
		origin = string(m[1])
	}
	return took, origin, nil
}

// runFrom samples runs that begin from origin. Others are not counted: spares
// that still wait are used up first.
func (b *bench) runFrom(origin string) probe {
	return func(ctx context.Context) (float64, error) {
		var got string
		for range drainRuns {
			took, from, err := b.timedRun(ctx)
			if err != nil || from == origin {
				return took, err
			}
			got = from
		}
		return 0, fmt.Errorf("%d runs, and none began from a %s; the last began from %q", drainRuns, origin, got)
	}
}

// runSpare samples a run that finds a spare waiting.
func (b *bench) runSpare(ctx context.Context) (float64, error) {
	if err := b.awaitSpares(ctx, 1); err != nil {
		return 0, err
	}
	took, origin, err := b.timedRun(ctx)
	if err == nil && origin != fromSpare {
		err = fmt.Errorf("a spare waited, and the run began from %q", origin)
	}
	return took, err
}

// runFirstLoop samples a loop without pauses that finds one spare: a daemon that
// knows of no loop before.
func (b *bench) runFirstLoop(ctx context.Context) (float64, error) {
	if err := b.home.run(ctx, "daemon", "restart"); err != nil {
		return 0, err
	}
	if err := b.home.run(ctx, "vm", "run", "--rm", "--", "true"); err != nil {
		return 0, err
	}
	return b.loop(ctx, 1)
}

// runLoop samples a loop without pauses after another, when the pool has grown to
// what that used.
func (b *bench) runLoop(ctx context.Context) (float64, error) {
	return b.loop(ctx, min(loopRuns, b.mostSpares))
}

// loop samples a loop when so many spares wait.
func (b *bench) loop(ctx context.Context, spares int) (float64, error) {
	if err := b.awaitSpares(ctx, spares); err != nil {
		return 0, err
	}
	return mean(b.home.timed("vm", "run", "--rm", "--", "true"), loopRuns)(ctx)
}

// spares returns how many spares the daemon keeps at most: 0 if it keeps none.
func (b *bench) spares(ctx context.Context) (int, error) {
	text, err := b.home.output(ctx, "daemon", "status", "--json")
	if err != nil {
		return 0, err
	}
	var status struct {
		Most int `json:"max_spares"`
	}
	return status.Most, json.Unmarshal([]byte(text), &status)
}

// keepSpares lets the daemon keep spares or not. All is measured without but what
// is about spares: they are made in the background, beside whatever runs.
func (b *bench) keepSpares(keep bool) error {
	home, err := b.home.layout()
	if err != nil {
		return err
	}
	if keep {
		return os.Remove(home.ConfigFile())
	}
	return atomicfile.Write(home.ConfigFile(), []byte("[spares]\nmemory = \"0M\"\n"), 0o600)
}

// awaitSpares returns when so many spares wait. The daemon is asked again and
// again: it tells nobody by itself.
func (b *bench) awaitSpares(ctx context.Context, count int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, spareTime, fmt.Errorf("no %d spares within a minute", count))
	defer cancel()
	ticker := time.NewTicker(spareEvery)
	defer ticker.Stop()
	for {
		templates, err := b.templates(ctx)
		if err != nil {
			return err
		}
		for _, t := range templates {
			if t.Current && t.Spares >= count {
				return nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// templateView is what template list --json says, as far as it matters here.
type templateView struct {
	Key     string `json:"key"`
	Current bool   `json:"current"`
	Spares  int    `json:"spares"`
}

func (b *bench) templates(ctx context.Context) ([]templateView, error) {
	text, err := b.home.output(ctx, "template", "list", "--json")
	if err != nil {
		return nil, err
	}
	var all []templateView
	return all, json.Unmarshal([]byte(text), &all)
}
