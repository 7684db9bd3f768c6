package leftover

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/image/recipe"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// Builds looks for images and kernels whose maker died: an unfinished directory
// whose lock nobody holds. What was downloaded for them is kept.
func Builds(home layout.Home, log *slog.Logger) []Leftover {
	var found []Leftover
	for _, name := range unfinished(home.Images()) {
		final := home.Image(name).Dir()
		clear := func(ctx context.Context) error { return sweepImage(ctx, home, name, log) }
		found = append(found, dead(final, clear)...)
	}
	for _, name := range unfinished(home.Kernels()) {
		final := home.Kernel(name).Dir()
		clear := func(context.Context) error { return os.RemoveAll(layout.Temp(final)) }
		found = append(found, dead(final, clear)...)
	}
	return found
}

// unfinished are the names of what is being made in dir, or was.
func unfinished(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutPrefix(entry.Name(), layout.TempPrefix); ok && entry.IsDir() {
			names = append(names, name)
		}
	}
	return names
}

// dead is the leftover of final, unless somebody makes it. It is removed under
// its lock, so that nobody begins meanwhile.
func dead(final string, clear func(context.Context) error) []Leftover {
	lock, err := lockfile.Try(layout.Lock(final))
	if err != nil || lock == nil {
		return nil
	}
	lock.Release()
	return []Leftover{{Path: layout.Temp(final), remove: func(ctx context.Context) error {
		lock, err := lockfile.Try(layout.Lock(final))
		if err != nil || lock == nil {
			return err // somebody makes it now, and clears up first
		}
		defer lock.Release()
		return clear(ctx)
	}}}
}

// sweepImage ends what the builder left running and removes what it left on
// disk. The image's lock is held.
func sweepImage(ctx context.Context, home layout.Home, name string, log *slog.Logger) error {
	temp := layout.Image(layout.Temp(home.Image(name).Dir()))
	suite := filepath.Base(name)
	for _, entry := range catalog.Images() {
		if entry.Name == name {
			suite = entry.Suite
		}
	}
	if err := recipe.Sweep(ctx, temp, home.DebsSuite(suite), log); err != nil {
		return err
	}
	return os.RemoveAll(temp.Dir())
}
