package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/template"
)

// sizes are how many VMs run while the cost of a command is measured.
func sizes() []int { return []int{1, 10, 50, 100} }

// stillSizes are how many there are of what does not run.
func stillSizes() []int { return []int{1, 10, 50} }

// scales measures what commands cost beside more and more VMs and templates.
func (b *bench) scales(ctx context.Context) (rows []row, err error) {
	if err := b.home.run(ctx, "image", "warm"); err != nil {
		return nil, err
	}
	running, err := b.besideRunning(ctx)
	if err != nil {
		return nil, err
	}
	still, err := b.besideStopped(ctx)
	if err != nil {
		return nil, err
	}
	templates, err := b.besideTemplates(ctx)
	return append(append(running, still...), templates...), err
}

// costs measures list and exec, and a run, beside count of what.
func (b *bench) costs(ctx context.Context, count int, what string) ([]row, error) {
	beside := fmt.Sprintf(", beside %d %s", count, what)
	commands := []struct {
		name string
		args []string
	}{
		{"vm list --all", []string{"vm", "list", "--all"}},
		{"exec of true", []string{"vm", "exec", b.vm.Name, "--", "true"}},
		{"vm run --rm -- true", []string{"vm", "run", "--rm", "--", "true"}},
	}
	var rows []row
	for _, c := range commands {
		r, err := row{Name: c.name + beside, Unit: "ms"}.measured(ctx, b.n, b.home.timed(c.args...))
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// besideRunning makes VMs from a template, measures, and deletes them. The VM of
// this run is the first.
func (b *bench) besideRunning(ctx context.Context) (rows []row, err error) {
	f := fleet{bench: b, prefix: "beside-"}
	defer func() { err = errors.Join(err, f.end(ctx)) }()
	for _, size := range sizes() {
		if err := roomFor(size - 1 - len(f.names)); err != nil {
			rows = append(rows, row{Name: fmt.Sprintf("beside %d running VMs", size), Absent: oneLine(err)})
			continue
		}
		if err := f.grow(ctx, size-1); err != nil {
			return rows, err
		}
		more, err := b.costs(ctx, size, "running VMs")
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// besideStopped measures beside VMs that were never started.
func (b *bench) besideStopped(ctx context.Context) (rows []row, err error) {
	f := fleet{bench: b, prefix: "still-"}
	defer func() { err = errors.Join(err, f.end(ctx)) }()
	for _, size := range stillSizes() {
		if err := f.grow(ctx, size, "--no-start"); err != nil {
			return rows, err
		}
		more, err := b.costs(ctx, size, "stopped VMs")
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// besideTemplates measures beside other templates: links to the one that is
// there, under the names that other shapes would have.
func (b *bench) besideTemplates(ctx context.Context) (rows []row, err error) {
	home, err := b.home.layout()
	if err != nil {
		return nil, err
	}
	known, err := template.New(home).List()
	if err != nil || len(known) == 0 {
		return nil, errors.Join(err, errors.New("there is no template to make more of"))
	}
	var made []layout.Instance
	defer func() {
		for _, dir := range made {
			err = errors.Join(err, os.RemoveAll(dir.Dir()))
		}
	}()
	for _, size := range stillSizes() {
		for n := len(known) + len(made); n < size; n++ {
			m := known[0].Manifest
			m.MemoryMiB += int64(n)
			dir := home.Template(m.Key())
			if err := linkTemplate(known[0].Dir, dir); err != nil {
				return rows, err
			}
			made = append(made, dir)
		}
		more, err := b.costs(ctx, len(known)+len(made), "templates")
		if rows = append(rows, more...); err != nil {
			return rows, err
		}
	}
	return rows, nil
}

// linkTemplate makes a directory with the same files.
func linkTemplate(from, to layout.Instance) error {
	if err := os.Mkdir(to.Dir(), 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(from.Dir())
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Link(filepath.Join(from.Dir(), f.Name()), filepath.Join(to.Dir(), f.Name())); err != nil {
			return err
		}
	}
	return nil
}
