// Package link is the guest's end of the guest link: two virtio-serial ports,
// the reset protocol of internal/linkwire on them, and yamux sessions.
package link

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/banger-dev/banger/internal/agent/uevent"
	"golang.org/x/sys/unix"
)

// Names of the two ports, as the VMM gives them.
const (
	CtlPort  = "banger.ctl"
	DataPort = "banger.data"
)

// maxWrite is how much the virtio console takes at once.
const maxWrite = 32 << 10

// Channel is one of the two byte channels. A deadline in the past makes a
// blocked Read or Write return os.ErrDeadlineExceeded.
type Channel interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
}

// Port is an open virtio-serial port.
type Port struct {
	file *os.File
	raw  syscall.RawConn
}

// OpenPort opens the port of that name, waiting until it is there. A port can
// be opened once at a time.
func OpenPort(ctx context.Context, name string) (*Port, error) {
	var dev string
	err := uevent.Wait(ctx, func() bool {
		dev = findPort("/sys/class/virtio-ports", name)
		return dev != ""
	})
	if err != nil {
		return nil, fmt.Errorf("no virtio port %q: %w", name, err)
	}
	file, err := os.OpenFile(filepath.Join("/dev", dev), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Port{file: file, raw: raw}, nil
}

// findPort returns the device with that name below the class directory.
func findPort(class, name string) string {
	devices, err := os.ReadDir(class)
	if err != nil {
		return ""
	}
	for _, d := range devices {
		got, err := os.ReadFile(filepath.Join(class, d.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return d.Name()
		}
	}
	return ""
}

// Read implements io.Reader. While the host has closed its end the kernel
// returns 0 bytes at once, again and again; Read sleeps then until data comes.
func (p *Port) Read(b []byte) (n int, err error) {
	if len(b) == 0 {
		return 0, nil
	}
	waitErr := p.raw.Read(func(fd uintptr) bool {
		n, err = retry(func() (int, error) { return unix.Read(int(fd), b) })
		return !(err == unix.EAGAIN || err == nil && n == 0)
	})
	return result(n, err, waitErr, "read")
}

// Write implements io.Writer. While the host has closed its end it waits.
func (p *Port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		part := b[written:min(len(b), written+maxWrite)]
		var n int
		var err error
		waitErr := p.raw.Write(func(fd uintptr) bool {
			n, err = retry(func() (int, error) { return unix.Write(int(fd), part) })
			return err != unix.EAGAIN
		})
		n, err = result(n, err, waitErr, "write")
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// retry repeats a system call that a signal cut short.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// result is the outcome of a system call inside a RawConn's wait.
func result(n int, err, waitErr error, op string) (int, error) {
	if waitErr != nil {
		return 0, waitErr
	}
	if err != nil {
		return 0, os.NewSyscallError(op, err)
	}
	return n, nil
}

// SetDeadline implements Channel.
func (p *Port) SetDeadline(t time.Time) error { return p.file.SetDeadline(t) }

// Close implements io.Closer.
func (p *Port) Close() error { return p.file.Close() }
