package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"golang.org/x/sys/unix"
)

// Bounds of a disk's size in bytes. The smaller one leaves room for the
// journal; the larger one is ext4's with 4 KiB blocks and 32-bit block numbers.
const (
	MinSize = 64 << 20
	MaxSize = 16 << 40
)

const blockSize = 4096

// features are spelt out, so that the host's mke2fs.conf cannot choose what the
// guest's kernel lacks. resize_inode is what lets the disk grow while mounted.
const features = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit," +
	"flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// mkfsTime is far more than making an empty file system ever takes (10 ms).
const mkfsTime = time.Minute

// CreateExt4 makes an empty ext4 file system of size bytes (rounded up to 4 KiB)
// in a sparse file at path, which must not exist. label has at most 16 bytes.
// Nothing is left behind when it fails.
//
// The file system has a journal, so that a VM that is killed loses no more than
// a machine that loses power. It costs no storage until it is used and 1 ms to
// make. There is nothing for the guest to initialise later: a new sparse file
// reads as zeros, and mkfs marks its tables so.
func CreateExt4(ctx context.Context, path string, size int64, label string) error {
	if size < MinSize || size > MaxSize {
		return banger.Errorf(banger.CodeUsage, "a disk of %s is not possible: it has %s to %s",
			banger.FormatSize(size), banger.FormatSize(MinSize), banger.FormatSize(MaxSize))
	}
	if len(label) > 16 || strings.ContainsRune(label, 0) {
		return fmt.Errorf("disk label %q is not valid", label)
	}
	size = RoundUp(size)
	return create(path, func(f *os.File) error {
		if err := f.Truncate(size); err != nil {
			return err
		}
		return mkfs(ctx, f, label, journalMiB(size))
	})
}

// journalMiB keeps the journal of a small disk small. More than 32 MiB brings
// nothing to a disk that one VM writes, and all of it ends up allocated.
func journalMiB(size int64) int64 {
	return min(32, max(4, size/(32<<20)))
}

func mkfs(ctx context.Context, f *os.File, label string, journal int64) error {
	program, err := findMkfs()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mkfsTime, fmt.Errorf("mkfs.ext4 took more than %v", mkfsTime))
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-F", "-q", "-m", "0", "-b", fmt.Sprint(blockSize), "-I", "256",
		"-O", features, "-J", fmt.Sprintf("size=%d", journal),
		"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0",
		"-L", label, f.Name())
	cmd.Env = append(os.Environ(), "MKE2FS_CONFIG=/dev/null", "LC_ALL=C")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	// A maker that dies must not leave one that still writes to the file. The
	// signal is tied to the thread that starts the program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	err = cmd.Run()
	runtime.UnlockOSThread()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.Contains(out.String(), unix.ENOSPC.Error()), strings.Contains(out.String(), "No space left"):
		return unix.ENOSPC
	}
	return fmt.Errorf("mkfs.ext4: %w: %s", err, lastLine(out.String()))
}

// findMkfs also looks where programs for root are: an ordinary user's PATH
// often lacks those directories, and the program needs no root.
func findMkfs() (string, error) {
	for _, name := range []string{"mkfs.ext4", "/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", banger.Errorf(banger.CodeUnavailable, "mkfs.ext4 is not installed").WithHint("apt-get install e2fsprogs")
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}
