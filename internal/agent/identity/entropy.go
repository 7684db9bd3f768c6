package identity

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxEntropy bounds one message, in bytes.
const maxEntropy = 4 << 10

// Random is the kernel's generator, kept open: to open a file is 900 blocks of code
// for a VMM to translate, in each copy of a guest, before it may answer.
type Random struct{ fd int }

// OpenRandom opens the generator. It stays open as long as the agent lives.
func OpenRandom() (*Random, error) {
	fd, err := unix.Open("/dev/urandom", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open /dev/urandom", err)
	}
	return &Random{fd}, nil
}

// AddEntropy credits seed to the kernel's pool and has its generator use it at
// once: until then copies of one VM draw the same numbers.
func (r *Random) AddEntropy(seed []byte) error {
	if len(seed) > maxEntropy {
		return errors.New("more entropy than one message may have")
	}
	// struct rand_pool_info: bits of entropy, bytes, the bytes (random(4)).
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(seed)))
	info = append(info, seed...)
	if err := ioctl(r.fd, unix.RNDADDENTROPY, unsafe.Pointer(&info[0])); err != nil {
		return os.NewSyscallError("RNDADDENTROPY", err)
	}
	return os.NewSyscallError("RNDRESEEDCRNG", ioctl(r.fd, rndReseedCRNG, nil))
}

// rndReseedCRNG is _IO('R', 0x07) of linux/random.h.
const rndReseedCRNG = 0x5207

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
