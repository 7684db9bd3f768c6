// Package logfile is a log that begins anew when it is full and keeps the part
// before once, as NAME.old: whoever floods it costs twice its bound.
package logfile

import (
	"os"
	"sync"
)

// Old is what follows the name of a log in the name of the part before.
const Old = ".old"

// File is a bounded log, appended to.
type File struct {
	mu   sync.Mutex
	path string
	max  int64
	file *os.File
	size int64
}

// Open opens the log at path, which holds max bytes at most.
func Open(path string, max int64) (*File, error) {
	f := &File{path: path, max: max}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write appends p. What does not fit on the disk is lost, not an error: a full
// disk must not stop whoever writes a log.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size > 0 && f.size+int64(len(p)) > f.max {
		if err := os.Rename(f.path, f.path+Old); err != nil {
			return 0, err
		}
		f.file.Close()
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	n, _ := f.file.Write(p)
	f.size += int64(n)
	return len(p), nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }
