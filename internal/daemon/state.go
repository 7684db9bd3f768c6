package daemon

import (
	"context"
	"os"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// PrepareState makes the state directory and makes sure that it is this user's
// alone: sockets and disks in it trust that.
func PrepareState(home layout.Home) error {
	for _, dir := range []string{home.State, home.VMs(), home.Images(), home.Kernels(), home.Templates(), home.Cache} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return banger.Errorf(banger.CodeUnavailable, "directory %s cannot be made: %w", dir, err).
				WithHint("BANGER_HOME=… on a disk that can be written")
		}
	}
	for _, dir := range []string{home.State, home.VMs(), home.Templates()} {
		if err := own(dir); err != nil {
			return err
		}
	}
	return nil
}

// own refuses a directory of somebody else and closes one that is too open.
func own(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "directory %s cannot be used: %w", dir, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Getuid() {
		return banger.Errorf(banger.CodeUnavailable, "directory %s belongs to uid %d, not to you (uid %d)", dir, st.Uid, os.Getuid()).
			WithHint("BANGER_HOME=… to use another, or sudo chown -R %d %s", os.Getuid(), dir)
	}
	if info.Mode().Perm()&0o077 != 0 {
		if err := os.Chmod(dir, 0o700); err != nil {
			return banger.Errorf(banger.CodeUnavailable, "directory %s is open to others: %w", dir, err).
				WithHint("chmod 700 %s", dir)
		}
	}
	return nil
}

// lockWait is how long a new daemon waits for the lock: doctor holds it for
// moments, and a daemon that was told to end lets go of it soon.
const lockWait = time.Second

// lockState takes the lock of the one daemon of this state directory.
func lockState(ctx context.Context, home layout.Home) (*lockfile.Lock, error) {
	bounded, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	lock, err := lockfile.Acquire(bounded, home.DaemonLock(), nil)
	if err != nil && bounded.Err() == nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "the daemon's lock cannot be taken: %w", err)
	}
	if err != nil {
		return nil, banger.Errorf(banger.CodeWrongState, "a daemon runs already in %s", home.State).
			WithHint("banger daemon status")
	}
	return lock, nil
}
