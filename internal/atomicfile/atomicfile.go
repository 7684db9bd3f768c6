// Package atomicfile replaces a file in one step: a reader, and a crash, see
// the old content or the new one.
package atomicfile

import (
	"os"
	"path/filepath"

	"github.com/banger-dev/banger/internal/layout"
)

// Write replaces the file at path. The data is on disk before the name is.
func Write(path string, data []byte, mode os.FileMode) error {
	return replace(path, data, mode, (*os.File).Sync)
}

// WriteVolatile is Write for what means nothing after the host has gone down: it
// does not wait for the disk, and after a power cut the file may be empty.
func WriteVolatile(path string, data []byte, mode os.FileMode) error {
	return replace(path, data, mode, func(*os.File) error { return nil })
}

func replace(path string, data []byte, mode os.FileMode, settle func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), layout.TempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = settle(f); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
