package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// chunk is how much is copied before a cancelled context is noticed, in bytes.
const chunk = 16 << 20

// Clone makes dst, which must not exist, a copy of src that shares its storage
// where the file system can (FICLONE); elsewhere it copies what src has
// allocated and leaves the holes. dst is as old as src: who has noted when src
// was written knows a copy of it from one that was written since. src must not
// change meanwhile. Nothing is left behind when it fails.
func Clone(ctx context.Context, dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", src)
	}
	return create(dst, func(out *os.File) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) != nil {
			if err := copySparse(ctx, out, in, info.Size()); err != nil {
				return err
			}
		}
		return setWritten(out, info.ModTime())
	})
}

// setWritten sets when f was written last.
func setWritten(f *os.File, at time.Time) error {
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
	return os.NewSyscallError("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), times, 0))
}

// copySparse copies the allocated extents of in.
func copySparse(ctx context.Context, out, in *os.File, size int64) error {
	if err := out.Truncate(size); err != nil {
		return err
	}
	for end := int64(0); end < size; {
		start, err := in.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole is left
		}
		if err != nil {
			return err
		}
		if end, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if err := copyExtent(ctx, out, in, start, end); err != nil {
			return err
		}
	}
	return nil
}

func copyExtent(ctx context.Context, out, in *os.File, start, end int64) error {
	for _, f := range []*os.File{in, out} {
		if _, err := f.Seek(start, io.SeekStart); err != nil {
			return err
		}
	}
	for start < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, min(chunk, end-start))
		start += n
		if err == io.EOF {
			return fmt.Errorf("%s shrank while it was copied", in.Name())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
