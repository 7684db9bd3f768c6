package boot

import (
	"bytes"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

type statT = syscall.Stat_t

// maxXattr is the kernel's bound of a list of names and of a value, in bytes.
const maxXattr = 64 << 10

// copyXattrs copies the extended attributes of from, but for those of the
// overlay itself. The last element of from is not followed if it is a link.
func copyXattrs(from, to string, link bool) error {
	buf := make([]byte, maxXattr)
	list, get := unix.Llistxattr, unix.Lgetxattr
	if !link {
		list, get = unix.Listxattr, unix.Getxattr // from may be a /proc link
	}
	n, err := list(from, buf)
	if err == unix.ENOTSUP || n == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, maxXattr)
	for name := range bytes.SplitSeq(bytes.TrimRight(buf[:n], "\x00"), []byte{0}) {
		if strings.HasPrefix(string(name), "trusted.overlay.") {
			continue
		}
		size, err := get(from, string(name), value)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, string(name), value[:size], 0); err != nil {
			return err
		}
	}
	return nil
}
