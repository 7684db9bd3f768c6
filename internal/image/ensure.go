package image

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
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/heartbeat"
	"github.com/banger-dev/banger/internal/image/ext4"
	"github.com/banger-dev/banger/internal/image/recipe"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// stage is the name of all progress from here.
const stage = "image"

// sweepTime bounds the removal of what a dead builder left.
const sweepTime = 10 * time.Second

// Ensure returns the image called name, making it from the catalog if it is not
// here. Two processes that want the same image build it once: the second waits,
// and says so. A build that fails or is cancelled leaves nothing but the
// packages it had fetched, which the next one takes. A name that is neither
// here nor in the catalog is not_found; a host that cannot build is
// unavailable, with the command that mends it.
func (s *Store) Ensure(ctx context.Context, name string, p banger.ProgressFunc) (Image, error) {
	found, err := s.Get(name)
	if err == nil || banger.CodeOf(err) != banger.CodeNotFound {
		return found, err
	}
	e, ok := entry(name)
	if !ok {
		return Image{}, err
	}
	r := heartbeat.Start(stage, p)
	made, err := s.make(ctx, e, r)
	r.Finish(err == nil)
	if err != nil && ctx.Err() == nil {
		return Image{}, named(name, err)
	}
	return made, err
}

// named puts the object before an error's words and keeps its code and hint.
func named(name string, err error) error {
	var e *banger.Error
	if errors.As(err, &e) {
		return &banger.Error{Code: e.Code, Message: fmt.Sprintf("image %q: %s", name, e.Message), Hint: e.Hint, Cause: err}
	}
	out := banger.Errorf(banger.CodeFailed, "image %q: %w", name, err)
	if errors.Is(err, unix.ENOSPC) {
		return out.WithHint("free 1G there, and run it again")
	}
	return out
}

// make builds the image under its lock, unless somebody else has done it by the
// time the lock is ours.
func (s *Store) make(ctx context.Context, e catalog.Image, r *heartbeat.Reporter) (Image, error) {
	final := s.opts.Home.Image(e.Name)
	lock, err := lockfile.Acquire(ctx, layout.Lock(final.Dir()), func() {
		r.Report(banger.Progress{Detail: "waiting: another process is making " + e.Name})
	})
	if err != nil {
		return Image{}, err
	}
	defer lock.Release()
	found, err := s.load(e.Name)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	r.Report(banger.Progress{Detail: "preparing"})
	temp := layout.Image(layout.Temp(final.Dir()))
	if err := s.clear(ctx, temp, e); err != nil {
		return Image{}, err
	}
	if err := os.Mkdir(temp.Dir(), 0o700); err != nil {
		return Image{}, err
	}
	if err := s.build(ctx, e, temp, r); err != nil {
		return Image{}, errors.Join(err, s.clear(ctx, temp, e))
	}
	if err := publish(temp, final); err != nil {
		return Image{}, errors.Join(err, s.clear(ctx, temp, e))
	}
	return s.load(e.Name)
}

// clear removes an unfinished image with all that belongs to it: ours, or one
// whose builder died. It goes on when ctx has ended, within its own limit.
func (s *Store) clear(ctx context.Context, temp layout.Image, e catalog.Image) error {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), sweepTime)
	defer stop()
	if err := recipe.Sweep(ctx, temp, s.opts.Home.DebsSuite(e.Suite), s.opts.Log); err != nil {
		return fmt.Errorf("clear up: %w", err)
	}
	return os.RemoveAll(temp.Dir())
}

// build fills the unfinished directory: the tar stream of the recipe goes
// straight into the file system.
func (s *Store) build(ctx context.Context, e catalog.Image, temp layout.Image, r *heartbeat.Reporter) error {
	base, err := os.OpenFile(temp.Base(), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer base.Close()
	b := recipe.Build{
		Image:  e,
		Mirror: s.opts.Mirror,
		Debs:   s.opts.Home.DebsSuite(e.Suite),
		Dir:    temp,
		Log:    s.opts.Log.With("image", e.Name),
		Report: func(p recipe.Status) { r.Report(banger.Progress{Detail: p.Detail, Done: p.Done, Total: p.Total}) },
	}
	err = b.Run(ctx, func(tar io.Reader) error {
		return ext4.Convert(ctx, tar, base, ext4.DefaultLimits())
	})
	if err != nil {
		return err
	}
	r.Report(banger.Progress{Detail: "checking the image"})
	id, size, err := seal(ctx, base)
	if err != nil {
		return err
	}
	return writeManifest(temp, Image{
		Name: e.Name, ID: id, Source: SourceCatalog, Kernel: e.Kernel, Size: size,
		Created: time.Now().UTC().Truncate(time.Second),
	})
}

// seal makes the base read-only and safe on disk, and returns its digest in hex
// and its size.
func seal(ctx context.Context, base *os.File) (string, int64, error) {
	if _, err := base.Seek(0, io.SeekStart); err != nil {
		return "", 0, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, &contextReader{ctx, base})
	if err != nil {
		return "", 0, err
	}
	if err := base.Chmod(0o444); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(sum.Sum(nil)), size, base.Sync()
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func writeManifest(dir layout.Image, i Image) error {
	data, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(dir.Manifest(), append(data, '\n'), 0o600)
}

// publish gives the finished image its name.
func publish(temp, final layout.Image) error {
	for _, name := range []string{temp.Build(), temp.BuildLock()} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// A directory without a manifest is no image; nobody uses it.
	if err := os.RemoveAll(final.Dir()); err != nil {
		return err
	}
	if err := os.Rename(temp.Dir(), final.Dir()); err != nil {
		return err
	}
	return syncDir(final.Dir())
}

// syncDir makes the new name outlive a power cut.
func syncDir(path string) error {
	dir, err := os.Open(path + "/..")
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
