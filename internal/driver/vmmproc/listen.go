package vmmproc

import (
	"os"

	"github.com/banger-dev/banger/internal/unixsock"
)

// Listen binds the sockets that a VMM will serve, as files to be passed to it
// in the same order. Bound by the starter, they accept connections from the
// first instant on; a connection waits until the VMM takes it.
func Listen(paths []string) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
	}()
	for _, path := range paths {
		l, err := unixsock.Listen(path)
		if err != nil {
			return files, err
		}
		file, err := l.File()
		l.Close()
		if err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}

// CloseAll closes files.
func CloseAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
