package recipe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

// holdLock opens the lock that every process of a build inherits, and takes it.
func holdLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Sweep ends what is left of the build on record in dir and removes its files
// outside dir: of one that has just ended, or of one whose builder died. The
// packages it had fetched go to debs. The caller holds the lock of the image,
// so that no builder is alive.
func Sweep(ctx context.Context, dir layout.Image, debs layout.Debs, log *slog.Logger) error {
	s, err := readRecord(dir)
	if err != nil || s == "" {
		return err
	}
	if err := end(ctx, dir.BuildLock()); err != nil {
		return err
	}
	cache := debCache{debs, log}
	for _, tree := range s.trees() {
		// Whole and verified: apt moves a package there when it is.
		if err := cache.keep(ctx, filepath.Join(tree, "var", "cache", "apt", "archives"), s.isStaged); err != nil {
			log.Warn("packages of an interrupted build are lost", "error", err)
		}
	}
	if err := s.remove(ctx); err != nil {
		return err
	}
	return os.Remove(dir.Build())
}

// isStaged reports whether a package came from the cache. Its copy in the tree
// may have been cut short.
func (s scratch) isStaged(name string) bool {
	_, err := os.Lstat(filepath.Join(s.staged(), name))
	return err == nil
}

// readRecord returns the directory on record, "" if there is none. Nothing but
// a directory of our making is ever returned.
func readRecord(dir layout.Image) (scratch, error) {
	data, err := os.ReadFile(dir.Build())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return "", fmt.Errorf("%s: %w", dir.Build(), err)
	}
	if !plainPath.MatchString(r.Scratch) || filepath.Clean(r.Scratch) != r.Scratch ||
		!strings.HasPrefix(filepath.Base(r.Scratch), scratchPrefix) {
		return "", fmt.Errorf("%s: %q is no directory of a build", dir.Build(), r.Scratch)
	}
	return scratch(r.Scratch), nil
}

// end kills the processes that still hold the lock of a build, and waits until
// they are gone.
func end(ctx context.Context, path string) error {
	lock, err := lockfile.Try(path)
	if err != nil {
		return err
	}
	if lock == nil {
		if group := readGroup(path); group > 1 {
			// The number cannot have been given to others: a holder of the lock
			// is alive, and keeps it.
			_ = syscall.Kill(-group, syscall.SIGKILL)
		}
		if lock, err = lockfile.Acquire(ctx, path, nil); err != nil {
			return banger.Errorf(banger.CodeUnavailable, "image build: processes of an earlier build do not end: %w", err).
				WithHint("fuser -k %s", path)
		}
	}
	lock.Release()
	return nil
}

func readGroup(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return 0
	}
	group, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return group
}

// removeRetry is how often a removal is tried again: a process that was killed
// may finish its last system call.
const removeRetry = 100 * time.Millisecond

// remove removes the directory with all its trees.
func (s scratch) remove(ctx context.Context) error {
	info, err := os.Lstat(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s is not a directory of this user", s)
	}
	if mount := mountBelow(string(s)); mount != "" {
		return banger.Errorf(banger.CodeUnavailable, "image build: %s is still mounted", mount).WithHint("umount %s", mount)
	}
	tick := time.NewTicker(removeRetry)
	defer tick.Stop()
	for {
		if err = s.removeOnce(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// removeOnce removes what there is. The files of a user's build belong to ids
// that only a user namespace with the same mapping may touch.
func (s scratch) removeOnce(ctx context.Context) error {
	if os.Getuid() != 0 {
		for _, tree := range s.trees() {
			cmd := exec.CommandContext(ctx, "mmdebstrap", "--unshare-helper", "find", tree, "-mount", "-mindepth", "1", "-delete")
			cmd.Dir = "/"
			// What it could not remove, the removal below reports.
			_ = cmd.Run()
		}
	}
	return os.RemoveAll(string(s))
}

// mountBelow returns a mount point inside dir, "" if there is none.
func mountBelow(dir string) string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			return fields[4]
		}
	}
	return ""
}
