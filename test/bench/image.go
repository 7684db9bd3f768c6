package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/catalog"
)

// image measures the build of the default image, against mmdebstrap alone with
// the same recipe. Both have the packages here already, and neither has to write
// what another build left dirty. Their order must change, and the first of each
// not count: in a virtual machine whose unused memory goes back to its host, the
// first build finds memory that is there, and those after it take twice the
// kernel's time to get it again (seen: 16.5 s, then 25 s, of either).
func (b *bench) image(ctx context.Context) ([]row, error) {
	entry, err := catalogEntry(catalog.DefaultImage)
	if err != nil {
		return nil, err
	}
	debs := filepath.Join(b.home.cache, "cache", "debs", entry.Suite)
	if found, _ := filepath.Glob(filepath.Join(debs, "*.deb")); len(found) == 0 {
		b.say("fetching the packages, with a build that is not counted")
		if _, err := b.buildImage(ctx); err != nil {
			return nil, err
		}
	}
	alone := func(ctx context.Context) (float64, error) { return buildAlone(ctx, entry, debs) }
	r := row{Name: "image build, packages here", Unit: "s"}
	return only(r.measured(ctx, few(b.n), settled(b.buildImage), yard{name: "mmdebstrap alone", limit: 1.1, probe: settled(alone)}))
}

// settled samples when all that was written before is on the disk.
func settled(p probe) probe {
	return func(ctx context.Context) (float64, error) {
		unix.Sync()
		return p(ctx)
	}
}

func catalogEntry(name string) (catalog.Image, error) {
	for _, entry := range catalog.Images() {
		if entry.Name == name {
			return entry, nil
		}
	}
	return catalog.Image{}, fmt.Errorf("image %q is not in the catalog", name)
}

// buildImage lets banger build the default image in a home without images, and
// returns the time in s from the first word of that stage to its end.
func (b *bench) buildImage(ctx context.Context) (_ float64, err error) {
	h, err := makeHome(b.bin, b.home.cache, []string{"state/kernels", "cache"})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, h.close(ctx)) }()
	cmd := h.command(ctx, "vm", "create", "--no-start", "--progress=json", "--name", "built")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var said bytes.Buffer
	took, readErr := stageTime(io.TeeReader(stderr, &said), "image")
	_, drainErr := io.Copy(&said, stderr)
	if err := errors.Join(cmd.Wait(), readErr, drainErr); err != nil {
		return 0, fmt.Errorf("vm create: %w\n%s", err, said.Bytes())
	}
	return took.Seconds(), nil
}

// stageTime returns how long a stage of JSON lines took, from its first line to
// the one that finishes it.
func stageTime(r io.Reader, stage string) (time.Duration, error) {
	var began time.Time
	for lines := bufio.NewScanner(r); lines.Scan(); {
		var p progress
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil || p.Stage != stage {
			continue
		}
		if began.IsZero() {
			began = time.Now()
		}
		if p.Finished {
			return time.Since(began), nil
		}
	}
	return 0, fmt.Errorf("stage %q was never finished", stage)
}

// buildAlone runs mmdebstrap as a person would who has the recipe and the
// packages, into a tar file, and returns the time in s.
func buildAlone(ctx context.Context, entry catalog.Image, debs string) (_ float64, err error) {
	dir, err := os.MkdirTemp("/var/tmp", "banger-bench-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	// apt's user and the mapped ones read there.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 0, err
	}
	if err := os.CopyFS(filepath.Join(dir, "recipe"), entry.Files); err != nil {
		return 0, err
	}
	if err := stage(debs, filepath.Join(dir, "debs")); err != nil {
		return 0, err
	}
	argv := aloneCommand(entry, dir)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out[max(0, len(out)-2000):])
	}
	return time.Since(start).Seconds(), nil
}

// aloneCommand is the recipe as a command line; see internal/image/recipe.
func aloneCommand(entry catalog.Image, dir string) []string {
	recipe := filepath.Join(dir, "recipe")
	mode, argv := "unshare", []string(nil)
	if os.Getuid() == 0 {
		// Its mounts are in a namespace that ends with it: what a build that was
		// killed leaves can be removed without the host's /dev in it.
		mode, argv = "root", []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"}
	}
	return append(argv, "mmdebstrap", "--mode="+mode, "--variant=apt", "--format=tar",
		"--include="+strings.Join(entry.Packages, ","),
		`--aptopt=Acquire::Languages "none"`, `--aptopt=APT::Install-Recommends "false"`, "--dpkgopt=force-unsafe-io",
		`--setup-hook=mkdir -p "$1/var/cache/apt/archives" && cp `+dir+`/debs/*.deb "$1/var/cache/apt/archives"`,
		"--essential-hook=sync-in "+recipe+"/overlay /",
		"--essential-hook=sh "+recipe+`/essential.sh "$1"`,
		"--customize-hook=sh "+recipe+`/customize.sh "$1"`,
		entry.Suite, filepath.Join(dir, "root.tar"))
}

// stage copies packages to a directory that others may read.
func stage(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(from, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		data, err := os.ReadFile(deb)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, filepath.Base(deb)), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
