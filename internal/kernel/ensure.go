package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/apt"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/heartbeat"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// stage is the name of this work in its progress.
const stage = "kernel"

// imagePrefix begins the names of Debian's packages that hold a kernel.
const imagePrefix = "linux-image-"

// Ensure returns the kernel called name, fetching it from Debian if it is not
// here. Two callers, in one process or two, fetch it once. Work that fails or is
// cancelled leaves nothing but apt's lists. A name that is neither here nor in
// the catalog is not_found.
func (s *Store) Ensure(ctx context.Context, name string, p banger.ProgressFunc) (Kernel, error) {
	found, err := s.Get(name)
	if err == nil || banger.CodeOf(err) != banger.CodeNotFound {
		return found, err
	}
	e, ok := entry(name)
	if !ok {
		return Kernel{}, err
	}
	m := &maker{store: s, entry: e, Reporter: heartbeat.Start(stage, p)}
	made, err := m.make(ctx)
	m.Finish(err == nil)
	if err == nil {
		return made, nil
	}
	if ctx.Err() != nil {
		return Kernel{}, ctx.Err()
	}
	if known, ok := errors.AsType[*banger.Error](err); ok {
		return Kernel{}, &banger.Error{Code: known.Code, Message: fmt.Sprintf("kernel %q: %s", name, known.Message), Hint: known.Hint, Cause: err}
	}
	wrapped := banger.Errorf(banger.CodeFailed, "kernel %q: %w", name, err)
	if errors.Is(err, unix.ENOSPC) {
		wrapped.WithHint("df -h %s, and free some space", s.opts.Home.Kernels())
	}
	return Kernel{}, wrapped
}

// maker fetches one kernel of the catalog.
type maker struct {
	store *Store
	entry catalog.Kernel
	*heartbeat.Reporter
}

// make fetches the kernel under its lock, unless somebody else has done it by
// the time the lock is ours.
func (m *maker) make(ctx context.Context) (Kernel, error) {
	final := m.store.opts.Home.Kernel(m.entry.Name)
	lock, err := lockfile.Acquire(ctx, layout.Lock(final.Dir()), func() {
		m.Report(banger.Progress{Detail: "waiting: another process is fetching " + m.entry.Name})
	})
	if err != nil {
		return Kernel{}, err
	}
	defer lock.Release()
	found, err := m.store.load(m.entry.Name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	temp := layout.Kernel(layout.Temp(final.Dir()))
	// What is there under this name was left by a maker that died: we have the
	// lock.
	if err := os.RemoveAll(temp.Dir()); err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(temp.Dir(), 0o700); err != nil {
		return Kernel{}, err
	}
	if err := m.fill(ctx, temp); err != nil {
		return Kernel{}, errors.Join(err, os.RemoveAll(temp.Dir()))
	}
	if err := publish(temp, final); err != nil {
		return Kernel{}, errors.Join(err, os.RemoveAll(temp.Dir()))
	}
	return m.store.load(m.entry.Name)
}

// fill downloads the package and puts what is needed of it into dir.
func (m *maker) fill(ctx context.Context, dir layout.Kernel) error {
	deb, pkg, err := m.download(ctx)
	if err != nil {
		return err
	}
	m.Report(banger.Progress{Detail: "unpacking " + pkg.Name})
	image := filepath.Join(dir.Dir(), "vmlinuz")
	if err := unpack(ctx, deb, image, dir.Modules()); err != nil {
		return err
	}
	m.Report(banger.Progress{Detail: "extracting the kernel"})
	sum, err := extract(image, dir.Vmlinux())
	if err != nil {
		return err
	}
	if err := os.Remove(image); err != nil {
		return err
	}
	if err := writeManifest(dir, Kernel{
		Name: m.entry.Name, Distro: m.entry.Distro, Arch: m.entry.Arch,
		Version: strings.TrimPrefix(pkg.Name, imagePrefix),
		SHA256:  sum,
		Source:  fmt.Sprintf("Debian %s, package %s %s", m.entry.Suite, pkg.Name, pkg.Version),
		Created: time.Now().UTC().Truncate(time.Second),
	}); err != nil {
		return err
	}
	return os.Remove(deb)
}

// download fetches the newest kernel package of the entry, verified by apt.
func (m *maker) download(ctx context.Context) (string, apt.Package, error) {
	opts := m.store.opts
	archive, err := apt.Open(ctx, apt.Config{
		Home: opts.Home, Suite: m.entry.Suite, Arch: m.entry.Arch,
		Options: apt.Options{Mirror: opts.Mirror, Keyring: opts.Keyring}, Log: opts.Log,
		Waiting: func() { m.Report(banger.Progress{Detail: "waiting: another process uses apt"}) },
	})
	if err != nil {
		return "", apt.Package{}, err
	}
	defer archive.Close()
	m.Report(banger.Progress{Detail: "reading Debian's package lists"})
	err = archive.Update(ctx, func(what string, _ float64) {
		m.Report(banger.Progress{Detail: "reading Debian's package lists: " + what})
	})
	if err != nil {
		return "", apt.Package{}, err
	}
	meta, err := archive.Show(ctx, m.entry.Package)
	if err != nil {
		return "", apt.Package{}, err
	}
	name := m.entry.Package
	for _, dependency := range meta.Depends {
		if strings.HasPrefix(dependency, imagePrefix) {
			name = dependency
			break
		}
	}
	pkg, err := archive.Show(ctx, name)
	if err != nil {
		return "", apt.Package{}, err
	}
	deb, err := archive.Download(ctx, pkg, func(_ string, fraction float64) {
		done := int64(fraction * float64(pkg.Size))
		m.Report(banger.Progress{Detail: "downloading " + pkg.Name, Done: done, Total: pkg.Size})
	})
	return deb, pkg, err
}

// extract writes the ELF kernel in image to path and returns its SHA-256.
func extract(image, path string) (string, error) {
	compressed, err := os.ReadFile(image)
	if err != nil {
		return "", err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	sum := sha256.New()
	if err := Vmlinux(io.MultiWriter(out, sum), compressed); err != nil {
		return "", err
	}
	if err := out.Chmod(0o444); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), out.Sync()
}

func writeManifest(dir layout.Kernel, k Kernel) error {
	data, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(dir.Manifest(), append(data, '\n'), 0o600)
}

// publish gives the finished kernel its name, once all of it is on the disk: a
// power cut must not leave a kernel whose modules are empty.
func publish(temp, final layout.Kernel) error {
	// A directory without a manifest is no kernel; nobody uses it.
	if err := os.RemoveAll(final.Dir()); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(final.Dir()))
	if err != nil {
		return err
	}
	defer parent.Close()
	// One call for a thousand small files.
	if err := unix.Syncfs(int(parent.Fd())); err != nil {
		return err
	}
	if err := os.Rename(temp.Dir(), final.Dir()); err != nil {
		return err
	}
	return parent.Sync()
}
