package treetar

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// file writes a regular file; a part of one is not left behind.
func (u *Unpacker) file(dir level, name string, h *tar.Header) (err error) {
	fd, err := create(dir, name)
	if errors.Is(err, os.ErrExist) {
		if err := makeRoom(dir.root, name); err != nil {
			return err
		}
		fd, err = create(dir, name)
	}
	if err != nil {
		return err
	}
	defer func() {
		if closed := unix.Close(fd); err == nil {
			err = closed
		}
		if err != nil {
			err = errors.Join(err, dir.root.Remove(name))
		}
	}()
	if err := u.content(fd, h.Size); err != nil {
		return err
	}
	return u.attributes(fd, h)
}

// create makes a new file. name is one word: with O_EXCL nothing is followed. It is
// a bare descriptor, because an os.File takes twice the calls, and most files are
// small.
func create(dir level, name string) (fd int, err error) {
	fd, err = unix.Openat(dir.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "create", Path: name, Err: err}
	}
	return fd, nil
}

// content writes what the archive has of the present file. Long runs of zeros become
// holes: where the archive has them as such, nothing else would keep them.
func (u *Unpacker) content(fd int, size int64) error {
	at, end := int64(0), int64(0) // how far it is, and what the file has
	for at < size {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		n, err := io.ReadFull(u.tar, u.buf[:min(size-at, chunk)])
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		written, err := writeData(fd, u.buf[:n], at)
		if err != nil {
			return err
		}
		end = max(end, written)
		at += int64(n)
		u.sum.Bytes += int64(n)
		u.tell()
	}
	if end < size {
		return unix.Ftruncate(fd, size)
	}
	return nil
}

// writeData writes b at an offset of a file, but for its holes. It returns where the
// last byte is that it has written, 0 if there was none.
func writeData(fd int, b []byte, at int64) (end int64, err error) {
	run := -1 // where data begins that is not written yet
	for from := 0; ; from += hole {
		data := from < len(b) && !allZero(b[from:min(from+hole, len(b))])
		switch {
		case data && run < 0:
			run = from
		case !data && run >= 0:
			to := min(from, len(b))
			if err := writeAll(fd, b[run:to], at+int64(run)); err != nil {
				return 0, err
			}
			end, run = at+int64(to), -1
		}
		if from >= len(b) {
			return end, nil
		}
	}
}

// writeAll is pwrite until everything is written.
func writeAll(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

// allZero compares each byte with the next: that is as fast as comparing two blocks.
func allZero(b []byte) bool { return b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:]) }

// attributes gives an open file or directory its owner, mode and times.
func (u *Unpacker) attributes(fd int, h *tar.Header) error {
	mode := uint32(h.Mode) & 0o7777
	if u.Owners {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return fmt.Errorf("owner %d:%d: %w", h.Uid, h.Gid, err)
		}
	} else {
		mode &= 0o1777
	}
	if err := unix.Fchmod(fd, mode); err != nil {
		return fmt.Errorf("mode: %w", err)
	}
	times := modified(h)
	// futimens(3) is this call without a path.
	if _, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("time: %w", errno)
	}
	return nil
}

// modified is the time of an entry, as the kernel takes it.
func modified(h *tar.Header) [2]unix.Timespec {
	return [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}}
}

// linkAttributes gives a symbolic link its owner and time.
func (u *Unpacker) linkAttributes(dir level, name string, h *tar.Header) error {
	if u.Owners {
		if err := dir.root.Lchown(name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	times := modified(h)
	return unix.UtimesNanoAt(dir.fd, name, times[:], unix.AT_SYMLINK_NOFOLLOW)
}
