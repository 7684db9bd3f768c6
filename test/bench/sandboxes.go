package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/image"
)

// runscModule is gVisor's module, at the version that the network stack has.
const runscModule = "gvisor.dev/gvisor"

// sandboxes are what else runs true in a sandbox: podman, gVisor's runsc, bwrap,
// in this order.
func (b *bench) sandboxes(ctx context.Context) []yard {
	podman := yard{name: "podman run --rm --network none true (runc)"}
	p, err := b.newPodman(ctx)
	if podman.absent = err; err == nil {
		podman.probe = program(p.run("true")...)
	}
	runsc := yard{name: "runsc do true"}
	path, err := b.runsc(ctx)
	if runsc.absent = err; err == nil {
		argv := []string{path, "--network=none", "--ignore-cgroups"}
		if os.Getuid() != 0 {
			argv = append(argv, "--rootless")
		}
		runsc.probe = program(append(argv, "do", "true")...)
	}
	bwrap := yard{name: "bwrap true", probe: program("bwrap", "--ro-bind", "/", "/",
		"--proc", "/proc", "--dev", "/dev", "--unshare-all", "--die-with-parent", "true")}
	_, bwrap.absent = exec.LookPath("bwrap")
	return []yard{podman, runsc, bwrap}
}

// program returns how long a program takes, from its start to its end, in ms.
func program(argv ...string) probe {
	return func(ctx context.Context) (float64, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.WaitDelay = waitDelay
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		start := time.Now()
		err := cmd.Run()
		took := millis(time.Since(start))
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, bytes.TrimSpace(stderr.Bytes()))
		}
		return took, err
	}
}

// kept is a directory for what takes long to make and serves later runs too.
func (b *bench) kept(name string) (string, error) {
	dir := filepath.Join(b.home.cache, "bench", name)
	return dir, os.MkdirAll(dir, 0o700)
}

// runsc builds gVisor's runsc, unless an earlier run has.
func (b *bench) runsc(ctx context.Context) (string, error) {
	version, err := output(exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Version}}", runscModule))
	if err != nil {
		return "", err
	}
	dir, err := b.kept("runsc-" + version)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "runsc")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	b.say("building %s/runsc@%s", runscModule, version)
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", runscModule+"/runsc@"+version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	_, err = output(cmd)
	return path, err
}

// output runs a command and returns its stdout, trimmed; an error holds what it
// said.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// podman runs containers of the root file system that the VMs have, in a store
// of its own.
type podman struct {
	argv  []string
	image string
}

// newPodman imports the image of the VMs of this run, unless an earlier run has.
func (b *bench) newPodman(ctx context.Context) (*podman, error) {
	for _, name := range []string{"podman", "runc"} {
		if _, err := findProgram(name); err != nil {
			return nil, err
		}
	}
	home, err := b.home.layout()
	if err != nil {
		return nil, err
	}
	base, err := image.New(image.Options{Home: home, Log: discard()}).Get(b.vm.Image)
	if err != nil {
		return nil, err
	}
	store, err := b.kept("podman")
	if err != nil {
		return nil, err
	}
	p := &podman{
		// A store remembers where it runs: in one place, always. No log of events,
		// no cgroups of systemd: neither is there in a container.
		argv: []string{"podman", "--root", filepath.Join(store, "root"), "--runroot", filepath.Join(store, "run"),
			"--cgroup-manager=cgroupfs", "--events-backend=none"},
		image: "localhost/banger-bench:" + base.ID[:12],
	}
	if _, err := output(p.command(ctx, "image", "exists", p.image)); err == nil {
		return p, nil
	}
	b.say("importing the image of the VMs into podman")
	return p, p.load(ctx, base.Base(), store)
}

func (p *podman) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, p.argv[0], append(p.argv[1:len(p.argv):len(p.argv)], args...)...)
}

// run is the command line for a command in a fresh container. The ulimits are
// there because podman's own, the host's highest, are refused in containers.
func (p *podman) run(argv ...string) []string {
	args := append(p.argv[:len(p.argv):len(p.argv)], "run", "--rm", "--network", "none", "--runtime", "runc",
		"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", p.image)
	return append(args, argv...)
}

// load imports the root file system in an ext4 file.
func (p *podman) load(ctx context.Context, base, store string) (err error) {
	debugfs, err := findProgram("debugfs")
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp(store, "import-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if _, err := output(exec.CommandContext(ctx, debugfs, "-R", "rdump / "+root, base)); err != nil {
		return err
	}
	archive := filepath.Join(root, ".root.tar")
	if _, err := output(exec.CommandContext(ctx, "tar", "-C", root, "--exclude=./.root.tar", "-cf", archive, ".")); err != nil {
		return err
	}
	_, err = output(p.command(ctx, "import", archive, p.image))
	return err
}

// findProgram looks for a program, also where a user's PATH often does not.
func findProgram(name string) (string, error) {
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed", name)
}
