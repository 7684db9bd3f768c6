// Package uevent waits for devices: the kernel announces each one that appears
// or changes, so nothing has to poll.
package uevent

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// eventSize is more than the kernel's bound of one announcement (2 KiB).
const eventSize = 4 << 10

// Wait returns nil when found reports true, which it is asked at once and after
// every announcement. The error is the context's, or why the kernel's
// announcements cannot be read.
func Wait(ctx context.Context, found func() bool) error {
	if found() {
		return nil
	}
	events, err := listen()
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, eventSize)
	// Ask again: it may have come before the socket was open.
	for !found() {
		_, err := events.Read(buf)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.ENOBUFS):
			// Some were lost, but each only means: look again.
		case err != nil:
			return err
		}
	}
	return nil
}

// listen opens a socket that gets the kernel's announcements.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	return os.NewFile(uintptr(fd), "uevent"), nil
}
