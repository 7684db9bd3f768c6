package recipe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// debCache is a directory of packages that apt has verified once. apt itself
// would take a file of the right name and size for good, so each has its digest
// on record and is used only if it still fits.
type debCache struct {
	dir layout.Debs
	log *slog.Logger
}

// verified maps the file name of a package to its SHA-256 in hex.
type verified map[string]string

// debFile is the name that apt gives a package: name, version, architecture.
var debFile = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*_[A-Za-z0-9.+~%-]+_[a-z0-9-]+\.deb$`)

const (
	// maxDeb bounds one package, in bytes.
	maxDeb = 1 << 30
	// maxIndex bounds the list of packages, in bytes.
	maxIndex = 8 << 20
)

// stage puts the packages of the cache into dir, where others may read them.
func (c debCache) stage(ctx context.Context, dir string) error {
	lock, err := lockfile.Acquire(ctx, layout.Lock(c.dir.Dir()), nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	for name, digest := range c.load() {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to := filepath.Join(c.dir.Dir(), name), filepath.Join(dir, name)
		got, err := copyFile(from, to)
		if err == nil && got == digest {
			continue
		}
		if errors.Is(err, unix.ENOSPC) {
			return err
		}
		// Not here any more, or not what it was: it is fetched again.
		if !errors.Is(err, fs.ErrNotExist) {
			c.log.Warn("a kept package is damaged", "package", name, "error", err)
			_ = os.Remove(from)
		}
		_ = os.Remove(to)
	}
	return nil
}

// keep takes the packages in dir, which apt has verified, into the cache, and
// drops other versions of them. Those that skip, if not nil, names are left.
func (c debCache) keep(ctx context.Context, dir string, skip func(string) bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lock, err := lockfile.Acquire(ctx, layout.Lock(c.dir.Dir()), nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := os.MkdirAll(c.dir.Dir(), 0o700); err != nil {
		return err
	}
	index, added := c.load(), 0
	for _, entry := range entries {
		name := entry.Name()
		if !entry.Type().IsRegular() || !debFile.MatchString(name) || skip != nil && skip(name) {
			continue
		}
		digest, err := c.add(filepath.Join(dir, name), name)
		if err != nil {
			return err
		}
		c.supersede(index, name)
		index[name] = digest
		added++
	}
	if added == 0 {
		return nil
	}
	c.log.Debug("packages kept", "count", added, "dir", c.dir.Dir())
	return c.save(index)
}

// add copies one package in.
func (c debCache) add(from, name string) (string, error) {
	to := filepath.Join(c.dir.Dir(), name)
	temp := layout.Temp(to)
	digest, err := copyFile(from, temp)
	if err == nil {
		err = os.Rename(temp, to)
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return digest, err
}

// supersede drops the other versions of a package.
func (c debCache) supersede(index verified, name string) {
	for other := range index {
		if other != name && samePackage(other, name) {
			delete(index, other)
			_ = os.Remove(filepath.Join(c.dir.Dir(), other))
		}
	}
}

// samePackage compares name and architecture of two files.
func samePackage(a, b string) bool {
	pa, pb := strings.Split(a, "_"), strings.Split(b, "_")
	return len(pa) == 3 && len(pb) == 3 && pa[0] == pb[0] && pa[2] == pb[2]
}

// load reads the list. One that is missing or damaged is empty: the packages
// are fetched again.
func (c debCache) load() verified {
	index := verified{}
	f, err := os.Open(c.dir.Verified())
	if err != nil {
		return index
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxIndex)).Decode(&index); err != nil {
		c.log.Warn("the list of kept packages is damaged", "file", c.dir.Verified(), "error", err)
		return verified{}
	}
	for name := range index {
		if !debFile.MatchString(name) {
			delete(index, name)
		}
	}
	return index
}

func (c debCache) save(index verified) error {
	data, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(c.dir.Verified(), data, 0o600)
}

// copyFile copies a regular file, readable by all, and returns its digest.
func copyFile(from, to string) (digest string, err error) {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(io.MultiWriter(out, sum), io.LimitReader(in, maxDeb))
	if err == nil {
		err = out.Chmod(0o644) // whatever the umask
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	return hex.EncodeToString(sum.Sum(nil)), err
}
