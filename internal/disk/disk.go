// Package disk makes and copies the disks of VMs: sparse files that hold an
// ext4 file system. Nothing here needs root.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"golang.org/x/sys/unix"
)

// Free returns how many bytes the calling user can still write to the file
// system that holds path, which must exist.
func Free(path string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// Total returns the size of the file system that holds path, which must exist,
// in bytes.
func Total(path string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", path, err)
	}
	return int64(fs.Blocks) * fs.Bsize, nil
}

// Allocated returns how many bytes of storage the file at path takes, holes not
// counted. Blocks that it shares with a clone are counted in both.
func Allocated(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}

// create makes the file at path by fill, under its temporary name: path exists
// only when it is whole. An existing path is an error. The temporary file of a
// maker that died is replaced; the caller sees to it that there is one maker.
func create(path string, fill func(f *os.File) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return banger.Errorf(banger.CodeWrongState, "disk %s exists already", path)
	}
	tmp := layout.Temp(path)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return explain(path, err)
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return explain(path, err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if err := fill(f); err != nil {
		return explain(path, err)
	}
	return explain(path, os.Rename(tmp, path))
}

// explain turns an error of making path into words for a person.
func explain(path string, err error) error {
	var own *banger.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &own):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e := banger.Errorf(banger.CodeFailed, "disk %s: no space left on the host", path)
		e.Cause = err
		return e.WithHint("df -h %s, and free some space", filepath.Dir(path))
	case errors.Is(err, unix.EFBIG):
		e := banger.Errorf(banger.CodeFailed, "disk %s: larger than the host's file system allows", path)
		e.Cause = err
		return e.WithHint("a smaller size")
	}
	return fmt.Errorf("disk %s: %w", path, err)
}
