package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/disk"
)

// The kinds of things that take storage, in the order they are told.
const (
	useVM       = "vm"
	useImage    = "image"
	useKernel   = "kernel"
	useTemplate = "template"
	useSpare    = "spare"
	useCache    = "cache"
)

// diskUsage says what takes storage.
func (d *Daemon) diskUsage(ctx context.Context) (*bangerv1.DiskUsageResponse, error) {
	out := new(bangerv1.DiskUsageResponse)
	var err error
	if out.FreeBytes, err = d.opts.Assets.Free(d.opts.Home.State); err != nil {
		return nil, err
	}
	if out.TotalBytes, err = disk.Total(d.opts.Home.State); err != nil {
		return nil, err
	}
	templates, err := d.staleTemplates(ctx)
	if err != nil {
		return nil, err
	}
	home := d.opts.Home
	for _, part := range []struct {
		dir  string
		kind func(entry string) (kind, name string, reclaimable bool)
	}{
		{home.VMs(), d.useOfVM},
		{home.Images(), func(name string) (string, string, bool) { return useImage, name, false }},
		{home.Kernels(), func(name string) (string, string, bool) { return useKernel, name, false }},
		{home.Templates(), func(key string) (string, string, bool) { return useTemplate, key, templates[key] }},
		{home.Cache, func(name string) (string, string, bool) { return useCache, name, true }},
	} {
		if err := d.addUses(ctx, out, part.dir, part.kind); err != nil {
			return nil, err
		}
	}
	// Spares lie among the VMs.
	slices.SortStableFunc(out.Uses, func(a, b *bangerv1.DiskUse) int { return order(a.Kind) - order(b.Kind) })
	return out, nil
}

func order(kind string) int {
	return slices.Index([]string{useVM, useImage, useKernel, useTemplate, useSpare, useCache}, kind)
}

// addUses adds what lies in a directory, one thing for each directory in it.
func (d *Daemon) addUses(ctx context.Context, out *bangerv1.DiskUsageResponse, dir string, kind func(string) (string, string, bool)) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if info, err := os.Stat(path); err != nil || !info.IsDir() {
			continue // locks, and what has vanished
		}
		bytes, err := disk.AllocatedTree(ctx, path)
		if err != nil {
			return banger.Errorf(banger.CodeFailed, "what %s takes is not known: %w", path, err).WithHint("banger doctor")
		}
		use := &bangerv1.DiskUse{Bytes: bytes}
		use.Kind, use.Name, use.Reclaimable = kind(entry.Name())
		out.Uses = append(out.Uses, use)
	}
	return nil
}

// useOfVM says whose an entry of the VMs' directory is.
func (d *Daemon) useOfVM(entry string) (kind, name string, reclaimable bool) {
	d.mu.Lock()
	m := d.vms[entry]
	d.mu.Unlock()
	if m == nil {
		return useSpare, strings.TrimPrefix(entry, "."), false
	}
	rec := m.look().rec
	switch rec.State {
	case banger.StateStopped, banger.StateCreated, banger.StateError:
		reclaimable = true
	}
	return useVM, rec.Name, reclaimable
}

// staleTemplates says of each template whether a prune would remove it.
func (d *Daemon) staleTemplates(ctx context.Context) (map[string]bool, error) {
	all, err := d.templates.list(ctx, false)
	if err != nil {
		return nil, err
	}
	stale := map[string]bool{}
	for _, t := range all {
		stale[t.Key] = !t.Current
	}
	return stale, nil
}
