package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// AllocatedTree returns how many bytes of storage a tree takes: files with several
// names once, what clones share in each. path may be a link to it. What vanishes
// meanwhile is not counted.
func AllocatedTree(ctx context.Context, path string) (int64, error) {
	path, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	seen := map[inode]bool{}
	total := int64(0)
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = d.Info()
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		total += newBlocks(info, seen)
		return nil
	})
	return total, err
}

// inode names a file of the host.
type inode struct{ device, number uint64 }

// newBlocks is what a file takes, in bytes; 0 if it was seen under another name.
func newBlocks(info fs.FileInfo, seen map[inode]bool) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	if st.Nlink > 1 && !info.IsDir() {
		key := inode{st.Dev, st.Ino}
		if seen[key] {
			return 0
		}
		seen[key] = true
	}
	return st.Blocks * 512
}
