package process

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/api/stream"
)

// A command may leave something running that holds its stdout or stderr open.
// After the command itself has ended, its output goes on until the streams end,
// or until nothing has come for quiet, or reads have waited for patience in
// all, or, from a child that floods, afterMost bytes have come and patience has
// passed. What was in the pipes at the end is always delivered. Then the
// command is done; what its children still write is read and dropped, so that
// they live on as they would under a shell. (Container engines and OpenSSH wait
// for the streams' end, and so hang on "server &". The times are long enough for
// the end of a process substitution under emulation.)
const (
	defaultQuiet = 500 * time.Millisecond
	patience     = 5 * time.Second
	afterMost    = 4 << 20
)

// pump moves one stream of a process into its log.
type pump struct {
	p    *Process
	file *os.File
	kind stream.Kind
	// After the process has ended: bytes read, and how long reads have waited.
	after  int
	waited time.Duration
}

// run returns when the stream has ended, or the process has and the stream is
// quiet. quiet is true then: something else still holds it.
func (u *pump) run() (quiet bool) {
	buf := make([]byte, stream.HeaderSize+firstRead)
	for {
		room := u.p.out.waitRoom()
		ended := u.p.endTime()
		if u.over(ended) {
			return true
		}
		n, err := u.read(buf[stream.HeaderSize:], room, ended)
		if n > 0 {
			kept := u.p.out.append(u.kind, buf, n)
			if kept || n == firstRead && len(buf) == stream.HeaderSize+firstRead {
				buf = u.p.out.buffer()
			}
		}
		switch {
		case err == nil:
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false // end of file; EIO is a terminal's
		case !ended.IsZero():
			return true
		}
	}
}

func (u *pump) over(ended time.Time) bool {
	if ended.IsZero() {
		return false
	}
	return u.waited > patience || u.after > afterMost && time.Since(ended) > patience
}

// read reads once; after the end of the process only for as long as it is quiet.
func (u *pump) read(buf []byte, room int, ended time.Time) (int, error) {
	buf = buf[:min(len(buf), room)]
	if ended.IsZero() {
		return u.file.Read(buf)
	}
	begun := time.Now()
	_ = u.file.SetReadDeadline(begun.Add(u.p.manager.quiet))
	n, err := u.file.Read(buf)
	u.waited += time.Since(begun)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		n, err = u.lastRead(buf)
	}
	u.after += n
	return n, err
}

// lastRead reads what is in the pipe, without waiting. A read whose deadline has
// passed does not look there: the deadline may have been set by watch, or have
// passed before the read was reached.
func (u *pump) lastRead(buf []byte) (int, error) {
	raw, err := u.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	var readErr error
	err = raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), buf) })
	switch {
	case err != nil:
		return 0, err
	case errors.Is(readErr, unix.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case readErr != nil:
		return 0, readErr
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// discard reads and drops what comes, until the stream or the manager ends.
func (u *pump) discard() {
	_ = u.file.SetReadDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, u.file)
}
