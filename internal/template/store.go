package template

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
	"slices"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
)

// PointRemove is the fault point at which a template that is removed has lost its
// name.
const PointRemove = "template.remove"

// maxManifest bounds a manifest in bytes.
const maxManifest = 64 << 10

// Store is the templates of one home. It has no state of its own; who makes a
// template holds layout.Home.TemplatesLock.
type Store struct{ home layout.Home }

// New returns the store of home. It makes nothing.
func New(home layout.Home) *Store { return &Store{home} }

// List returns the templates, the one used last first, and after them those that
// are damaged. What is unfinished is none.
func (s *Store) List() ([]Template, error) {
	entries, err := os.ReadDir(s.home.Templates())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Template
	for _, entry := range entries {
		if t, ok := s.Look(entry.Name()); ok {
			all = append(all, t)
		}
	}
	slices.SortStableFunc(all, func(a, b Template) int {
		if (a.Damaged == "") != (b.Damaged == "") {
			return len(a.Damaged) - len(b.Damaged) // one of them is 0
		}
		return b.Used.Compare(a.Used)
	})
	return all, nil
}

// Find returns the template called key, if VMs can be started from it. It takes as
// long whatever else there is.
func (s *Store) Find(key string) (Template, bool) {
	t, ok := s.Look(key)
	return t, ok && t.Damaged == ""
}

// Look returns the template called key, if one is there: it may be damaged.
func (s *Store) Look(key string) (Template, bool) {
	if !isKey(key) {
		return Template{}, false
	}
	t := Template{Key: key, Dir: s.home.Template(key)}
	info, err := os.Stat(t.Dir.Dir())
	if err != nil {
		return Template{}, false
	}
	made := info.ModTime()
	t.Used = made
	if info, err := os.Stat(t.Dir.TemplateManifest()); err == nil {
		t.Used = info.ModTime()
	}
	t.Size, _ = Size(t.Dir) // one that is being removed: it takes nothing
	switch t.Manifest, err = readManifest(t.Dir); {
	case err != nil:
		t.Manifest, t.Damaged = Manifest{Created: made}, "its manifest is damaged"
	case t.Format != format:
		t.Damaged = "another version of banger made it"
	case t.Manifest.Key() != key:
		t.Manifest, t.Damaged = Manifest{Created: made}, "its manifest is that of another"
	default:
		t.Damaged = changed(t.Dir, t.Files)
	}
	return t, true
}

// readManifest reads the manifest in dir.
func readManifest(dir layout.Instance) (m Manifest, err error) {
	f, err := os.Open(dir.TemplateManifest())
	if err != nil {
		return m, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return m, err
	}
	if len(data) > maxManifest {
		return m, errors.New("too long")
	}
	return m, json.Unmarshal(data, &m)
}

// isKey reports whether a name is that of a finished template.
func isKey(name string) bool {
	raw, err := hex.DecodeString(name)
	return err == nil && len(raw) == sha256.Size && strings.ToLower(name) == name
}

// Touch notes that a VM is started from the template.
func (s *Store) Touch(key string) error {
	now := time.Now()
	return os.Chtimes(s.home.Template(key).TemplateManifest(), now, now)
}

// Seal makes what was frozen in the unfinished directory of m's template last:
// the sockets of its VMM are gone, nothing in it can be written, all of it is on
// the disk, and its manifest, which says how each file is, was written after
// that.
func (s *Store) Seal(ctx context.Context, m Manifest) error {
	dir := s.Unfinished(m.Key())
	for _, path := range []string{dir.Overlay(), dir.Work()} {
		if err := os.Chmod(path, 0o400); err != nil {
			return err
		}
	}
	if err := settle(dir.Dir()); err != nil {
		return err
	}
	m.Format = format
	var err error
	if m.Files, err = record(ctx, dir); err != nil {
		return err
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(dir.TemplateManifest(), append(data, '\n'), 0o400); err != nil {
		return err
	}
	return syncPath(dir.Dir())
}

// Publish gives a sealed template its name. One that has it, which nobody can
// use if another was made, goes.
func (s *Store) Publish(key string) error {
	if err := s.Remove(key); err != nil {
		return err
	}
	if err := os.Rename(s.Unfinished(key).Dir(), s.home.Template(key).Dir()); err != nil {
		return err
	}
	return syncPath(s.home.Templates())
}

// Unfinished is the directory in which the template called key is made.
func (s *Store) Unfinished(key string) layout.Instance {
	return layout.Instance(layout.Temp(s.home.Template(key).Dir()))
}

// Remove removes a template; one that is not there is no error. It is gone at
// once, and a crash leaves an unfinished directory.
func (s *Store) Remove(key string) error {
	if !isKey(key) {
		return fmt.Errorf("%q is no template", key)
	}
	// A name of its own: the same template may be made again meanwhile.
	temp := layout.Temp(s.home.Template(key + "-" + banger.NewID()).Dir())
	err := os.Rename(s.home.Template(key).Dir(), temp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := fault.Point(PointRemove); err != nil {
		return err
	}
	return os.RemoveAll(temp)
}

// Evict removes the templates that were not used for the longest time until all
// together take no more than limit bytes. keep is never removed. It returns
// what it removed.
func (s *Store) Evict(limit int64, keep string) ([]Template, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, t := range all {
		total += t.Size
	}
	var removed []Template
	for _, t := range slices.Backward(all) {
		if total <= limit {
			break
		}
		if t.Key == keep {
			continue
		}
		if err := s.Remove(t.Key); err != nil {
			return removed, err
		}
		removed = append(removed, t)
		total -= t.Size
	}
	return removed, nil
}

// Limit is what all templates may take together, in bytes: as the config says
// (-1: nothing), else a tenth of the file system of path, and no more than 8 GiB.
func Limit(configured int64, path string) (int64, error) {
	if configured >= 0 {
		return configured, nil
	}
	total, err := disk.Total(path)
	return min(8*banger.GiB, total/10), err
}

// Size is the storage that the files in dir take, in bytes.
func Size(dir layout.Instance) (int64, error) {
	entries, err := os.ReadDir(dir.Dir())
	if err != nil {
		return 0, err
	}
	var total int64
	for _, entry := range entries {
		n, err := disk.Allocated(filepath.Join(dir.Dir(), entry.Name()))
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// settle brings the files in dir to the disk, and removes what is no file.
func settle(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path, do := filepath.Join(dir, entry.Name()), os.Remove
		if entry.Type().IsRegular() {
			do = syncPath
		}
		if err := do(path); err != nil {
			return err
		}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
