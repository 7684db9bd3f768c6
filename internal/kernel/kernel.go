// Package kernel owns the kernels of this user: which there are, and how one
// that is missing is fetched from Debian. A kernel is a directory with an
// uncompressed ELF image, its modules and a manifest; it appears whole, by a
// rename, or not at all.
package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sort"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/layout"
)

// Kernel is a kernel that is on this host, whole.
type Kernel struct {
	Name   string `json:"name"`
	Distro string `json:"distro"`
	Arch   string `json:"arch"`
	// Version is its release, as uname -r prints it.
	Version string `json:"version"`
	// SHA256 of the vmlinux, in hex.
	SHA256 string `json:"sha256"`
	// Source is where it came from, in words.
	Source  string    `json:"source"`
	Created time.Time `json:"created"`
	// Dir is where it lies.
	Dir string `json:"-"`
}

// Vmlinux is the path of the uncompressed ELF kernel.
func (k Kernel) Vmlinux() string { return layout.Kernel(k.Dir).Vmlinux() }

// Modules is the directory of its modules.
func (k Kernel) Modules() string { return layout.Kernel(k.Dir).Modules() }

// Options are what a store needs.
type Options struct {
	Home layout.Home
	// Mirror is the URL of a Debian archive. Empty: that of the host's apt.
	Mirror string
	// Keyring is the file of keys that Mirror is signed with. Empty: Debian's.
	Keyring string
	Log     *slog.Logger
}

// Store is the kernels of one user.
type Store struct{ opts Options }

// New returns the store. It touches nothing.
func New(opts Options) *Store { return &Store{opts} }

// maxManifest bounds a manifest, in bytes.
const maxManifest = 64 << 10

// List returns the kernels that are here, by name. A directory that is not a
// whole kernel is left out, with a warning in the log.
func (s *Store) List() ([]Kernel, error) {
	entries, err := os.ReadDir(s.opts.Home.Kernels())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeFailed, "kernels: %w", err)
	}
	var kernels []Kernel
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || strings.HasPrefix(name, layout.TempPrefix) {
			continue
		}
		found, err := s.load(name)
		if err != nil {
			s.opts.Log.Warn("kernel left out", "kernel", name, "error", err)
			continue
		}
		kernels = append(kernels, found)
	}
	sort.Slice(kernels, func(i, j int) bool { return kernels[i].Name < kernels[j].Name })
	return kernels, nil
}

// checkName allows what is one plain element of a path: a-z, 0-9, dot and dash.
func checkName(name string) error {
	if err := banger.CheckName("kernel", strings.ReplaceAll(name, ".", "-")); err != nil {
		return banger.Errorf(banger.CodeUsage, "kernel name %q is not valid: use a-z, 0-9, dots and -, up to 63 characters, not starting with - or a dot", name).
			WithHint("banger kernel list --available")
	}
	return nil
}

// Get returns the kernel called name. One that is not here is not_found; one
// that is damaged is failed.
func (s *Store) Get(name string) (Kernel, error) {
	if err := checkName(name); err != nil {
		return Kernel{}, err
	}
	found, err := s.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, s.notFound(name)
	}
	if err != nil {
		return Kernel{}, banger.Errorf(banger.CodeFailed, "kernel %q is damaged: %w", name, err).
			WithHint("rm -rf %s, and use it again", s.opts.Home.Kernel(name).Dir())
	}
	return found, nil
}

func (s *Store) load(name string) (Kernel, error) {
	dir := s.opts.Home.Kernel(name)
	f, err := os.Open(dir.Manifest())
	if err != nil {
		return Kernel{}, err
	}
	defer f.Close()
	var found Kernel
	decoder := json.NewDecoder(io.LimitReader(f, maxManifest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&found); err != nil {
		return Kernel{}, fmt.Errorf("manifest.json: %w", err)
	}
	found.Dir = dir.Dir()
	if _, err := os.Stat(found.Vmlinux()); err != nil {
		return Kernel{}, errors.New("vmlinux is missing")
	}
	if found.Name != name {
		return Kernel{}, fmt.Errorf("its manifest is that of %q", found.Name)
	}
	return found, nil
}

func (s *Store) notFound(name string) error {
	if _, ok := entry(name); ok {
		return banger.Errorf(banger.CodeNotFound, "kernel %q is in the catalog but not local", name).
			WithHint("banger vm run --kernel %s, which fetches it", name)
	}
	var names []string
	for _, e := range catalog.Kernels() {
		names = append(names, e.Name)
	}
	message := fmt.Sprintf("kernel %q is not local and not in the catalog", name)
	if near := banger.Nearest(name, names); near != "" {
		message += fmt.Sprintf(" (is it %q?)", near)
	}
	return banger.Errorf(banger.CodeNotFound, "%s", message).WithHint("banger kernel list --available")
}

func entry(name string) (catalog.Kernel, bool) {
	for _, e := range catalog.Kernels() {
		if e.Name == name {
			return e, true
		}
	}
	return catalog.Kernel{}, false
}
