package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// systemdSocket is where systemctl reaches systemd. Until it is there,
	// systemctl says "offline" and does not wait.
	systemdSocket = "/run/systemd/private"
	// retryAfter is the wait after an answer that is none: systemd was
	// executing itself again.
	retryAfter = time.Second
	// maxFailed bounds the failed units that are told, and maxUnitName each name.
	maxFailed   = 64
	maxUnitName = 255
)

// waitSystemd returns when systemd has settled, or ctx ends.
func waitSystemd(ctx context.Context, log *slog.Logger) systemState {
	if err := waitPath(ctx, systemdSocket); err != nil && ctx.Err() == nil {
		log.Warn("cannot watch for systemd", "cause", err)
	}
	for {
		word, err := systemctl(ctx, "is-system-running", "--wait")
		switch word {
		case "running", "maintenance", "stopping":
			return systemState{word: word}
		case "degraded":
			return systemState{word: word, failed: failedUnits(ctx, log)}
		case "": // no answer at all
			log.Warn("systemctl does not answer", "cause", err)
		}
		select {
		case <-ctx.Done():
			return systemState{}
		case <-time.After(retryAfter):
		}
	}
}

// systemctl runs it and returns what it said. Its exit status means nothing
// when it said something.
func systemctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	out := &limited{limit: 64 << 10}
	cmd.Stdout = out
	err := cmd.Run()
	return strings.TrimSpace(out.String()), err
}

// limited keeps the beginning of what is written.
type limited struct {
	bytes.Buffer
	limit int
}

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, l.limit-l.Len()))])
	return len(p), nil
}

func failedUnits(ctx context.Context, log *slog.Logger) []string {
	list, err := systemctl(ctx, "list-units", "--failed", "--plain", "--no-legend", "--full")
	if err != nil {
		log.Warn("cannot list failed units", "cause", err)
	}
	return parseUnits(list)
}

// parseUnits takes the first word of each line.
func parseUnits(list string) []string {
	var units []string
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) == 0 || len(fields[0]) > maxUnitName {
			continue
		}
		if units = append(units, fields[0]); len(units) == maxFailed {
			break
		}
	}
	return units
}

// waitPath returns when path is there. It watches each directory on the way in
// turn, as it appears.
func waitPath(ctx context.Context, path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("inotify_init1", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 4<<10)
	for {
		if err := watchNearest(fd, filepath.Dir(path)); err != nil {
			return err
		}
		// Looked at after the watch is set: it cannot appear unseen.
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		if _, err := events.Read(buf); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}

// watchNearest watches dir, or the nearest directory above that exists.
func watchNearest(fd int, dir string) error {
	for {
		_, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE_SELF|unix.IN_ONLYDIR)
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}
