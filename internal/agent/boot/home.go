package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names on the work disk. The person's files are in homeName; a directory of
// that name is only ever made by a rename, when it is whole.
const (
	homeName    = "root"
	fillingName = ".filling"
)

// fillHome returns the directory of the work disk that holds /root. If there
// is none, it is copied from the image's: a copy that was interrupted is done
// again, and one that is there is never touched.
func fillHome(image, disk string) (string, error) {
	home, filling := filepath.Join(disk, homeName), filepath.Join(disk, fillingName)
	if _, err := os.Lstat(home); err == nil {
		return home, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if err := os.RemoveAll(filling); err != nil {
		return "", err
	}
	c := copier{links: make(map[uint64]string)}
	if err := c.tree(image, filling); err != nil {
		return "", err
	}
	// The files reach the disk before the name does. The name itself may be
	// lost: nothing that is written later can outlast it, since the journal
	// keeps its order, and the copy is then done again.
	if err := syncDisk(disk); err != nil {
		return "", err
	}
	return home, os.Rename(filling, home)
}

// syncDisk writes everything of the file system at dir to its disk.
func syncDisk(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// copier copies a tree exactly: modes, owners, times, extended attributes,
// links and special files.
type copier struct {
	// links maps inodes with several names to the first copy.
	links map[uint64]string
}

// tree copies from, which is a directory, to to, which does not exist.
func (c *copier) tree(from, to string) error {
	// from may be a /proc/self/fd link to the directory.
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return copyMeta(from, to, info)
}

func (c *copier) entry(from, to string) error {
	info, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return c.tree(from, to)
	}
	st := info.Sys().(*statT)
	if first, ok := c.links[st.Ino]; ok && st.Nlink > 1 {
		return os.Link(first, to)
	}
	if err := copyNode(from, to, info); err != nil {
		return err
	}
	if st.Nlink > 1 {
		c.links[st.Ino] = to
	}
	return copyMeta(from, to, info)
}

// copyNode makes to what from is, without its metadata.
func copyNode(from, to string, info os.FileInfo) error {
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case info.Mode().IsRegular():
		return copyFile(from, to)
	}
	st := info.Sys().(*statT)
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: to, Err: err}
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// copyMeta gives to the owner, mode, attributes and times of from.
func copyMeta(from, to string, info os.FileInfo) error {
	st := info.Sys().(*statT)
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := copyXattrs(from, to, info.Mode()&os.ModeSymlink != 0); err != nil {
		return fmt.Errorf("attributes of %s: %w", to, err)
	}
	if info.Mode()&os.ModeSymlink == 0 {
		// After chown, which clears setuid.
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	times := []unix.Timespec{unix.Timespec(st.Atim), unix.Timespec(st.Mtim)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: to, Err: err}
	}
	return nil
}
