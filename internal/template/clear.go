package template

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// Unfinished returns the directories of templates that are being made or
// removed, and those of a home whose maker died.
func Unfinished(home layout.Home) []string {
	entries, err := os.ReadDir(home.Templates())
	if err != nil {
		return nil
	}
	var dirs []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), layout.TempPrefix) && entry.IsDir() {
			dirs = append(dirs, filepath.Join(home.Templates(), entry.Name()))
		}
	}
	return dirs
}

// Clear ends what works in an unfinished directory, makers first, and removes
// it. ours accepts the programs that a VM consists of. VMs that were started
// from a template name the files of a finished one, and are left alone.
func Clear(ctx context.Context, dir layout.Instance, ours func(program string) bool) error {
	if !strings.HasPrefix(filepath.Base(dir.Dir()), layout.TempPrefix) {
		return errors.New(dir.Dir() + " is not unfinished")
	}
	var errs []error
	found := process.Working(filepath.Dir(dir.Dir()), ours)
	for _, makers := range []bool{true, false} {
		for _, f := range found {
			if (f.Program == layout.Supervisor) == makers && inside(f.Path, dir.Dir()) {
				errs = append(errs, process.End(ctx, f.PID, f.Start))
			}
		}
	}
	errs = append(errs, endVMM(ctx, dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir.Dir())
}

func inside(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// endVMM ends the VMM that its maker wrote down.
func endVMM(ctx context.Context, dir layout.Instance) error {
	var handle struct {
		PID       int    `json:"pid"`
		StartTime uint64 `json:"start_time"`
		BootID    string `json:"boot_id"`
	}
	info, err := os.Stat(dir.VMM())
	if err != nil || info.Size() > maxManifest {
		return nil
	}
	data, err := os.ReadFile(dir.VMM())
	if err != nil || json.Unmarshal(data, &handle) != nil {
		return nil
	}
	if handle.PID <= 1 || handle.BootID != process.BootID() || !process.Alive(handle.PID, handle.StartTime) {
		return nil
	}
	return process.End(ctx, handle.PID, handle.StartTime)
}
