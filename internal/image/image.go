// Package image owns the base images of this user: which there are, and how one
// that is missing is made. An image is a directory with a read-only ext4 file
// and a manifest; it appears whole, by a rename, or not at all.
package image

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

// Image is an image that is on this host, whole.
type Image struct {
	Name string `json:"name"`
	// ID is the SHA-256 of the base, in hex.
	ID string `json:"id"`
	// Source is where it came from: "catalog".
	Source string `json:"source"`
	// Kernel names the kernel that it boots with.
	Kernel string `json:"kernel"`
	// Size of the base in bytes.
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	// Dir is where it lies.
	Dir string `json:"-"`
}

// SourceCatalog is the source of images that the catalog describes.
const SourceCatalog = "catalog"

// Base is the path of the read-only root file system, ext4, mode 0444.
func (i Image) Base() string { return layout.Image(i.Dir).Base() }

// Options are what a store needs.
type Options struct {
	Home layout.Home
	// Mirror is the URL of a Debian archive for recipes. Empty: mmdebstrap's
	// default.
	Mirror string
	Log    *slog.Logger
}

// Store is the images of one user.
type Store struct{ opts Options }

// New returns the store. It touches nothing.
func New(opts Options) *Store { return &Store{opts} }

// List returns the images that are here, by name. A directory that is not a
// whole image is left out, with a warning in the log.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(s.opts.Home.Images())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeFailed, "images: %w", err)
	}
	var images []Image
	for _, entry := range entries {
		name := entry.Name()
		if !entry.IsDir() || strings.HasPrefix(name, layout.TempPrefix) {
			continue
		}
		found, err := s.load(name)
		if err != nil {
			s.opts.Log.Warn("image left out", "image", name, "error", err)
			continue
		}
		images = append(images, found)
	}
	sort.Slice(images, func(i, j int) bool { return images[i].Name < images[j].Name })
	return images, nil
}

// Get returns the image called name. One that is not here is not_found, whether
// or not the catalog has it; one that is damaged is failed.
func (s *Store) Get(name string) (Image, error) {
	if err := banger.CheckName("image", name); err != nil {
		return Image{}, err
	}
	found, err := s.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, s.notFound(name)
	}
	if err != nil {
		return Image{}, banger.Errorf(banger.CodeFailed, "image %q is damaged: %w", name, err).
			WithHint("rm -rf %s, and use it again", s.opts.Home.Image(name).Dir())
	}
	return found, nil
}

// maxManifest bounds a manifest, in bytes.
const maxManifest = 64 << 10

func (s *Store) load(name string) (Image, error) {
	dir := s.opts.Home.Image(name)
	f, err := os.Open(dir.Manifest())
	if err != nil {
		return Image{}, err
	}
	defer f.Close()
	var found Image
	decoder := json.NewDecoder(io.LimitReader(f, maxManifest))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&found); err != nil {
		return Image{}, fmt.Errorf("manifest.json: %w", err)
	}
	found.Dir = dir.Dir()
	info, err := os.Stat(found.Base())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Image{}, errors.New("base.ext4 is missing")
	case err != nil:
		return Image{}, err
	case info.Size() != found.Size || found.Name != name:
		return Image{}, errors.New("base.ext4 and manifest.json do not belong together")
	}
	return found, nil
}

// notFound is the error for an image that is not here.
func (s *Store) notFound(name string) error {
	if _, ok := entry(name); ok {
		return banger.Errorf(banger.CodeNotFound, "image %q is in the catalog but not local", name).
			WithHint("banger vm run --image %s, which builds it", name)
	}
	message := fmt.Sprintf("image %q is not local and not in the catalog", name)
	if near := banger.Nearest(name, s.names()); near != "" {
		message += fmt.Sprintf(" (is it %q?)", near)
	}
	return banger.Errorf(banger.CodeNotFound, "%s", message).WithHint("banger image list --available")
}

// names are those of all images that could be meant.
func (s *Store) names() []string {
	var names []string
	for _, e := range catalog.Images() {
		names = append(names, e.Name)
	}
	local, err := s.List()
	if err != nil {
		return names
	}
	for _, i := range local {
		names = append(names, i.Name)
	}
	return names
}

func entry(name string) (catalog.Image, bool) {
	for _, e := range catalog.Images() {
		if e.Name == name {
			return e, true
		}
	}
	return catalog.Image{}, false
}
