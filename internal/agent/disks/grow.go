package disks

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/agent/uevent"
)

// resizeFS is EXT4_IOC_RESIZE_FS of Linux's fs/ext4/ext4.h: it takes the wanted
// number of blocks, and grows a mounted file system.
const resizeFS = 0x40086610

// noticeTime bounds the wait for the kernel to hear from the VMM that a disk has
// grown, which takes milliseconds.
const noticeTime = 20 * time.Second

// sectorSize is what /sys/block counts in, in bytes, whatever the disk's own is.
const sectorSize = 512

// The superblock of ext4 and what is read of it (Linux's
// Documentation/filesystems/ext4/super.rst).
const (
	superOffset   = 1024
	superSize     = 1024
	blocksLow     = 0x4
	logBlockSize  = 0x18
	magicOffset   = 0x38
	features64    = 0x60
	blocksHigh    = 0x150
	magic         = 0xef53
	incompat64Bit = 0x80
	maxLogBlock   = 6
)

// Grow grows the file system of the disk with that serial, which has, or is about
// to have, want bytes. It waits until the kernel has heard of that. The file system
// is mounted somewhere already; a mount of our own, which nobody sees, is how it is
// reached.
func Grow(ctx context.Context, serial string, want int64) error {
	if serial != Overlay && serial != Work {
		return fmt.Errorf("no disk %q can grow", serial)
	}
	device := bySerial("/sys/block")[serial]
	if device == "" {
		return fmt.Errorf("there is no disk %q", serial)
	}
	noticed, cancel := context.WithTimeout(ctx, noticeTime)
	defer cancel()
	err := uevent.Wait(noticed, func() bool {
		have, err := size("/sys/block", device)
		return err == nil && have >= want
	})
	if err != nil {
		have, _ := size("/sys/block", device)
		return fmt.Errorf("the kernel sees %d bytes of the %s disk, not %d: %w", have, serial, want, err)
	}
	dir, err := mountUnseen(device)
	if err != nil {
		return err
	}
	defer dir.Close()
	return grow("/sys/block", device, dir)
}

// GrowMounted grows the file system that is mounted at dir to the size of its
// device.
func GrowMounted(device, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return grow("/sys/block", device, f)
}

func grow(sysBlock, device string, dir *os.File) error {
	have, err := size(sysBlock, device)
	if err != nil {
		return err
	}
	fs, err := readSuper(device)
	if err != nil {
		return err
	}
	blocks := uint64(have) / fs.blockSize
	if blocks <= fs.blocks {
		return nil
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		return fmt.Errorf("grow the file system of %s to %d blocks: %w", device, blocks, errno)
	}
	return nil
}

// mountUnseen mounts an ext4 file system where no path leads, and opens its root.
func mountUnseen(device string) (*os.File, error) {
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", device); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mount)
	root, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(root), device), nil
}

// size is what the kernel knows of a disk, in bytes.
func size(sysBlock, device string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(sysBlock, filepath.Base(device), "size"))
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 54)
	return sectors * sectorSize, err
}

// super is what is read of a superblock.
type super struct{ blocks, blockSize uint64 }

func readSuper(device string) (super, error) {
	f, err := os.Open(device)
	if err != nil {
		return super{}, err
	}
	defer f.Close()
	block := make([]byte, superSize)
	if _, err := f.ReadAt(block, superOffset); err != nil && err != io.EOF {
		return super{}, err
	}
	return parseSuper(block)
}

// parseSuper decodes a superblock of superSize bytes.
func parseSuper(b []byte) (super, error) {
	le := binary.LittleEndian
	if len(b) != superSize || le.Uint16(b[magicOffset:]) != magic || le.Uint32(b[logBlockSize:]) > maxLogBlock {
		return super{}, fmt.Errorf("there is no ext4 file system on the disk")
	}
	s := super{blocks: uint64(le.Uint32(b[blocksLow:])), blockSize: 1024 << le.Uint32(b[logBlockSize:])}
	if le.Uint32(b[features64:])&incompat64Bit != 0 {
		s.blocks |= uint64(le.Uint32(b[blocksHigh:])) << 32
	}
	return s, nil
}
