// Package lockfile holds a file lock (flock) that can be waited for within a
// context. The kernel lets go of it when its holder dies, so nobody ever has to
// break a stale one.
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// retry is how often a taken lock is tried again. A blocking flock cannot be
// cancelled, so a waiter has to ask.
const retry = 200 * time.Millisecond

// Lock is a lock that is held.
type Lock struct{ file *os.File }

// Try takes the lock at path, and returns nil if somebody else has it. The file
// is made if it is not there, and its directory (mode 0700) too.
func Try(path string) (*Lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return &Lock{file}, nil
	}
	file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Acquire takes the lock at path, waiting until its holder lets go or ctx ends.
// waiting, if not nil, is called once, when the lock turns out to be taken.
func Acquire(ctx context.Context, path string, waiting func()) (*Lock, error) {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		lock, err := Try(path)
		if lock != nil || err != nil {
			return lock, err
		}
		if waiting != nil {
			waiting()
			waiting = nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// Release lets go of the lock. The file stays. Closing alone would not do: a
// child that was forked this moment holds the file until it execs.
func (l *Lock) Release() {
	_ = unix.Flock(int(l.file.Fd()), unix.LOCK_UN)
	l.file.Close()
}
