// Package process names processes so that a reused pid is never mistaken for
// the one that was meant, waits for them without being their parent, and ends
// them.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrGone: the process does not live any more.
var ErrGone = errors.New("no such process")

// BootID returns the id of this boot of the host; empty if it cannot be read.
func BootID() string {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// StartTime returns when pid was started, in clock ticks since boot. A zombie
// is ErrGone: nothing of it runs.
func StartTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, ErrGone
	}
	// The name, in brackets, may hold anything; fields are counted after it.
	end := strings.LastIndexByte(string(data), ')')
	fields := strings.Fields(string(data[end+1:]))
	if len(fields) < 20 {
		return 0, ErrGone
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return 0, ErrGone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// Alive reports whether pid lives and was started at start.
func Alive(pid int, start uint64) bool {
	if pid <= 0 {
		return false
	}
	now, err := StartTime(pid)
	return err == nil && now == start
}

// Handle holds on to one process. Its pid may be given to another process once
// this one is gone; the handle never is. Its methods may be called from any
// goroutine.
type Handle struct {
	pid int
	fd  *os.File
}

// Open returns a handle, or ErrGone.
func Open(pid int) (*Handle, error) {
	if pid <= 0 {
		return nil, ErrGone
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil, ErrGone
		}
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &Handle{pid, os.NewFile(uintptr(fd), "pidfd")}, nil
}

// PID is the process.
func (h *Handle) PID() int { return h.pid }

// Close lets go of the process.
func (h *Handle) Close() error { return h.fd.Close() }

// Wait returns when the process has ended, whoever its parent is, or with the
// error of ctx.
func (h *Handle) Wait(ctx context.Context) error {
	own, err := h.dup()
	if err != nil {
		return err
	}
	defer own.Close()
	raw, err := own.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { own.Close() })
	defer stop()
	// A pidfd is readable from the end of the process on.
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return n > 0 || (err != nil && err != unix.EINTR)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// dup is a second descriptor, which one waiter closes to stop waiting.
func (h *Handle) dup() (*os.File, error) {
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dupErr error
	if err := raw.Control(func(from uintptr) {
		fd, dupErr = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, os.NewSyscallError("dup", dupErr)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Kill sends SIGKILL.
func (h *Handle) Kill() error {
	raw, err := h.fd.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	if err := raw.Control(func(fd uintptr) {
		sendErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	}); err != nil {
		return err
	}
	if errors.Is(sendErr, unix.ESRCH) {
		return nil
	}
	return sendErr
}

// End kills pid, if it is the one started at start, and waits until it is gone.
// A start of 0 takes the pid as it is. A process that is gone is no error.
func End(ctx context.Context, pid int, start uint64) error {
	h, err := Open(pid)
	if errors.Is(err, ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.Close()
	// The handle is held, so the comparison cannot be of another process.
	if start != 0 && !Alive(pid, start) {
		return nil
	}
	if err := h.Kill(); err != nil {
		return fmt.Errorf("kill %d: %w", pid, err)
	}
	if err := h.Wait(ctx); err != nil {
		return fmt.Errorf("process %d does not end: %w", pid, err)
	}
	return nil
}

// Found is a process that works in a directory.
type Found struct {
	PID   int
	Start uint64
	// Program is the base name of its executable.
	Program string
	// Path is what matched: an argument's path, or its working directory.
	Path string
}

// maxCmdline bounds what is read of a command line in bytes.
const maxCmdline = 256 << 10

// Working returns the processes of this user whose program is accepted by
// match and that name a path inside root in their arguments or work there.
func Working(root string, match func(program string) bool) []Found {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []Found
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if f, ok := examine(pid, root, match); ok {
			all = append(all, f)
		}
	}
	return all
}

func examine(pid int, root string, match func(string) bool) (Found, bool) {
	dir := fmt.Sprintf("/proc/%d/", pid)
	start, err := StartTime(pid)
	if err != nil {
		return Found{}, false
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || int(st.Uid) != os.Getuid() {
		return Found{}, false
	}
	exe, err := os.Readlink(dir + "exe")
	if err != nil {
		return Found{}, false
	}
	program := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	if !match(program) {
		return Found{}, false
	}
	path, ok := pathInside(dir, root)
	return Found{PID: pid, Start: start, Program: program, Path: path}, ok
}

func pathInside(dir, root string) (string, bool) {
	prefix := strings.TrimSuffix(root, "/") + "/"
	if cwd, err := os.Readlink(dir + "cwd"); err == nil && strings.HasPrefix(cwd, prefix) {
		return strings.TrimSuffix(cwd, " (deleted)"), true
	}
	data, err := os.ReadFile(dir + "cmdline")
	if err != nil || len(data) > maxCmdline {
		return "", false
	}
	for arg := range strings.SplitSeq(string(data), "\x00") {
		if i := strings.Index(arg, prefix); i >= 0 {
			path, _, _ := strings.Cut(arg[i:], ",")
			return path, true
		}
	}
	return "", false
}
