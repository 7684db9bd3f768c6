package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one mount(2).
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// do makes the target, which is a directory, and mounts.
func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("cannot mount %s: %w", m.target, err)
	}
	return m.call()
}

// call mounts on a target that is there.
func (m mount) call() error {
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("cannot mount %s: %w", m.target, err)
	}
	return nil
}

// inRoot opens a directory of the tree at root, made with mode if it is not
// there. Links in the image cannot lead out of the tree. The path it returns
// is good for a mount until the file is closed.
func inRoot(root *os.Root, path string, mode os.FileMode) (dir *os.File, target string, err error) {
	if err := root.MkdirAll(path, mode); err != nil {
		return nil, "", err
	}
	dir, err = root.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), nil
}

// mountIn mounts inside the tree at root; m.target is relative to it.
func mountIn(root *os.Root, m mount) error {
	dir, target, err := inRoot(root, m.target, 0o755)
	if err != nil {
		return fmt.Errorf("cannot mount /%s: %w", m.target, err)
	}
	defer dir.Close()
	if err := unix.Mount(m.source, target, m.kind, m.flags, m.data); err != nil {
		return fmt.Errorf("cannot mount /%s: %w", m.target, err)
	}
	return nil
}
