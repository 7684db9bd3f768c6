package leftover

import (
	"context"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/template"
)

// Templates looks for templates whose maker died, or whose removal was broken
// off. What works for them (a maker, its VMM) ends with their removal. Nothing
// is found while somebody makes a template.
func Templates(home layout.Home, ours func(program string) bool) []Leftover {
	dirs := template.Unfinished(home)
	if len(dirs) == 0 {
		return nil
	}
	lock, err := lockfile.Try(home.TemplatesLock())
	if err != nil || lock == nil {
		return nil
	}
	lock.Release()
	var found []Leftover
	for _, dir := range dirs {
		found = append(found, Leftover{Path: dir, remove: func(ctx context.Context) error {
			lock, err := lockfile.Try(home.TemplatesLock())
			if err != nil || lock == nil {
				return err // somebody makes one now, and clears up first
			}
			defer lock.Release()
			return template.Clear(ctx, layout.Instance(dir), ours)
		}})
	}
	return found
}
