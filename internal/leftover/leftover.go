// Package leftover finds what belongs to no VM any more, and removes it: the
// daemon does so as it starts, doctor --repair when a person asks.
package leftover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
)

// Leftover is one thing that is there and should not be.
type Leftover struct {
	// Path is a file or directory; for a process, what it works on.
	Path string
	// Process is set for a process.
	Process *process.Found
	// Spare is set for what belongs to a spare: to a daemon that runs, it is none.
	Spare bool
	// remove takes it away, where that is more than removing Path.
	remove func(context.Context) error
}

// String says what it is, for a person.
func (l Leftover) String() string {
	if l.Process != nil {
		return fmt.Sprintf("process %d (%s) of %s, which is no VM", l.Process.PID, l.Process.Program, l.Path)
	}
	return l.Path
}

// Remove ends the process, or removes the directory with all that belongs to it.
func (l Leftover) Remove(ctx context.Context) error {
	switch {
	case l.Process != nil:
		return process.End(ctx, l.Process.PID, l.Process.Start)
	case l.remove != nil:
		return l.remove(ctx)
	}
	return os.RemoveAll(l.Path)
}

// Whole reports whether vms/id holds all that makes a VM, so that it is one
// even if no record says so.
func Whole(home layout.Home, id string) bool {
	if strings.HasPrefix(id, layout.TempPrefix) {
		return false
	}
	dir := home.Instance(id)
	if isSpare(home, id) {
		return false
	}
	for _, path := range []string{dir.Spec(), dir.Work(), dir.Overlay()} {
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			return false
		}
	}
	return true
}

// isSpare reports whether vms/id is a VM that was never anybody's.
func isSpare(home layout.Home, id string) bool {
	return exists(home.Instance(id).Spare())
}

// Find looks for leftovers. It may run beside a daemon: what belongs to an
// operation under way is none. A whole VM without a record is none either: the
// daemon finds it again when it starts. db may be nil: there are no records.
func Find(ctx context.Context, home layout.Home, db *store.Store, ours func(program string) bool) ([]Leftover, error) {
	// In this order: what an operation makes after we have looked is not seen,
	// what it made before has its record by then.
	processes := process.Working(home.VMs(), ours)
	entries, err := os.ReadDir(home.VMs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	known, busy, err := records(ctx, db)
	if err != nil {
		return nil, err
	}
	var found []Leftover
	for _, entry := range entries {
		id, unfinished := strings.CutPrefix(entry.Name(), layout.TempPrefix)
		path := filepath.Join(home.VMs(), entry.Name())
		switch {
		case unfinished && busy[id], !unfinished && known[id], Whole(home, entry.Name()):
		case !exists(path):
		default:
			found = append(found, directory(path, isSpare(home, entry.Name())))
		}
	}
	for _, p := range processes {
		if id := owner(home, p.Path); !known[id] && !Whole(home, id) && process.Alive(p.PID, p.Start) {
			found = append([]Leftover{{Path: p.Path, Process: &p, Spare: isSpare(home, id)}}, found...)
		}
	}
	return found, nil
}

// directory is a leftover that goes as a whole: half of a spare, its mark gone,
// would look like a VM.
func directory(path string, spare bool) Leftover {
	l := Leftover{Path: path, Spare: spare}
	if spare {
		l.remove = func(context.Context) error {
			temp := layout.Temp(path)
			return errors.Join(os.Rename(path, temp), os.RemoveAll(temp))
		}
	}
	return l
}

// records are the VMs that have one, and those that are being worked on.
func records(ctx context.Context, db *store.Store) (known, busy map[string]bool, err error) {
	known, busy = map[string]bool{}, map[string]bool{}
	if db == nil {
		return known, busy, nil
	}
	vms, err := db.VMs(ctx)
	if err != nil {
		return nil, nil, err
	}
	ops, err := db.Operations(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, vm := range vms {
		known[vm.ID] = true
	}
	for _, op := range ops {
		busy[op.VMID] = true
	}
	return known, busy, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// owner is the id of the VM that a path below vms/ belongs to.
func owner(home layout.Home, path string) string {
	rest, _ := strings.CutPrefix(path, home.VMs()+"/")
	id, _, _ := strings.Cut(rest, "/")
	return strings.TrimPrefix(id, layout.TempPrefix)
}
