package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/layout"
)

// cacheVar names the directory that all tests share what takes minutes to make
// in; empty: banger-test in the user's cache directory.
const cacheVar = "BANGER_TEST_CACHE"

// closeTime bounds the end of a home.
const closeTime = time.Minute

// waitDelay bounds what a command that was killed leaves to be read.
const waitDelay = 10 * time.Second

// home is a BANGER_HOME of this run alone, and the commands run in it.
type home struct {
	dir, bin string
	cache    string
	env      []string
}

// shared returns the parts of a home that all have in common: what never changes
// once it is made. Templates are each run's own: it makes more of them.
func shared() []string { return []string{"state/kernels", "state/images", "cache"} }

// newHome makes a home. bin is the directory of the binaries.
func newHome(bin string) (*home, error) {
	if _, err := os.Stat(filepath.Join(bin, "banger")); err != nil {
		return nil, fmt.Errorf("%w (make build)", err)
	}
	cache := os.Getenv(cacheVar)
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, err
		}
		cache = filepath.Join(base, "banger-test")
	}
	return makeHome(bin, cache, shared())
}

// makeHome makes a home with parts that are those of cache.
func makeHome(bin, cache string, parts []string) (*home, error) {
	dir, err := os.MkdirTemp("", "banger-bench-")
	if err != nil {
		return nil, err
	}
	h := &home{dir: dir, bin: bin, cache: cache}
	for _, part := range parts {
		target, link := filepath.Join(cache, part), filepath.Join(dir, part)
		err := errors.Join(os.MkdirAll(target, 0o700), os.MkdirAll(filepath.Dir(link), 0o700))
		if err == nil {
			err = os.Symlink(target, link)
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	h.env = append(os.Environ(), layout.HomeVar+"="+dir, "HOME="+dir)
	return h, nil
}

// layout is where things are in it.
func (h *home) layout() (layout.Home, error) {
	return layout.FromEnv(func(name string) string {
		if name == layout.HomeVar {
			return h.dir
		}
		return ""
	})
}

// close ends the VMs and the daemon, and removes everything.
func (h *home) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	list, err := h.output(ctx, "vm", "list", "--all", "-q")
	for _, id := range strings.Fields(list) {
		err = errors.Join(err, h.run(ctx, "vm", "delete", "--force", id))
	}
	return errors.Join(err, h.run(ctx, "daemon", "stop"), os.RemoveAll(h.dir))
}

// command prepares a banger command with an empty stdin.
func (h *home) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(h.bin, "banger"), args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = h.env, h.dir, waitDelay
	return cmd
}

// finish runs cmd; an error holds what it said.
func finish(cmd *exec.Cmd) error {
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("banger %s: %w\n%s", strings.Join(cmd.Args[1:], " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

func (h *home) run(ctx context.Context, args ...string) error {
	return finish(h.command(ctx, args...))
}

// output runs a command and returns its stdout, trimmed.
func (h *home) output(ctx context.Context, args ...string) (string, error) {
	var stdout bytes.Buffer
	cmd := h.command(ctx, args...)
	cmd.Stdout = &stdout
	err := finish(cmd)
	return strings.TrimSpace(stdout.String()), err
}

// timed returns how long a command takes, from its start to its end, in ms.
func (h *home) timed(args ...string) probe {
	return func(ctx context.Context) (float64, error) {
		cmd := h.command(ctx, args...)
		start := time.Now()
		err := finish(cmd)
		return millis(time.Since(start)), err
	}
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// shape is what figures of a VM depend on.
type shape struct {
	Image     string `json:"image"`
	Kernel    string `json:"kernel"`
	VCPU      int    `json:"vcpu"`
	MemoryMiB int64  `json:"memory_mib"`
	Driver    string `json:"driver"`
	Accel     string `json:"accel"`
}

// vm is what show --json says, as far as it matters here.
type vm struct {
	shape
	Name          string `json:"name"`
	Origin        string `json:"origin"`
	Dir           string `json:"dir"`
	SupervisorPID int    `json:"supervisor_pid"`
	VMMPID        int    `json:"vmm_pid"`
}

// create makes a VM that boots, and waits for it.
func (h *home) create(ctx context.Context, name string) (vm, error) {
	return h.start(ctx, "vm", "create", "--cold", "--json", "--timeout", "5m", "--name", name)
}

// start runs a command that prints a VM as JSON.
func (h *home) start(ctx context.Context, args ...string) (vm, error) {
	var v vm
	text, err := h.output(ctx, args...)
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(text), &v)
}
