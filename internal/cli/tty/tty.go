// Package tty is the terminal that a command runs on: raw mode that is always
// undone, its size, and an input whose reads can be ended.
package tty

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// IsTerminal reports whether f is a terminal.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// Size returns the columns and rows of the terminal f.
func Size(f *os.File) (cols, rows int, err error) { return term.GetSize(int(f.Fd())) }

// Terminal puts the terminal of In into raw mode and back.
type Terminal struct {
	in *os.File

	mu    sync.Mutex
	saved *term.State
}

// New returns a Terminal for in; nothing happens to it yet.
func New(in *os.File) *Terminal { return &Terminal{in: in} }

// Raw sets raw mode: every key goes to the guest. Doing it twice is no error.
func (t *Terminal) Raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved != nil {
		return nil
	}
	saved, err := term.MakeRaw(int(t.in.Fd()))
	if err != nil {
		return err
	}
	t.saved = saved
	return nil
}

// Restore undoes Raw. It may be called any number of times, from any goroutine,
// and also on the way out of a panic or a signal.
func (t *Terminal) Restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.saved == nil {
		return
	}
	// A process in the background would be stopped for setting its terminal.
	_ = term.Restore(int(t.in.Fd()), t.saved)
	t.saved = nil
}

// Input reads a file that may block for ever, such as a terminal or a pipe, and
// can be interrupted. The file is not closed, nor made non-blocking: it may be
// shared with other processes.
type Input struct {
	file     *os.File
	stopRead *os.File
	stop     *os.File
	once     sync.Once
}

// NewInput returns an Input of file. The caller calls Close when no Read is in
// progress.
func NewInput(file *os.File) (*Input, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	return &Input{file: file, stopRead: r, stop: w}, nil
}

// Read reads what there is, waiting for it; io.EOF after Interrupt.
func (in *Input) Read(p []byte) (int, error) {
	fds := []unix.PollFd{
		{Fd: int32(in.file.Fd()), Events: unix.POLLIN},
		{Fd: int32(in.stopRead.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if fds[1].Revents != 0 {
			return 0, io.EOF
		}
		n, err := in.file.Read(p)
		if errors.Is(err, unix.EAGAIN) {
			continue // someone else made the file non-blocking and was faster
		}
		return n, err
	}
}

// Interrupt makes a Read in progress, and all later ones, return io.EOF.
func (in *Input) Interrupt() { in.once.Do(func() { in.stop.Close() }) }

// Close frees what Input holds; the file stays open.
func (in *Input) Close() {
	in.Interrupt()
	in.stopRead.Close()
}
