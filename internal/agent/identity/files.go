package identity

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// hostsMark ends the one line of /etc/hosts that is ours; all others are the
// image's or the person's.
const hostsMark = "# banger"

// hostsBase is a hosts file for an image that has none.
const hostsBase = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// writeNames writes hostname and hosts.
func writeNames(etc, name string) error {
	hosts := hostsBase
	// An image's hosts file is small; one that is not is left out of it.
	if old := readSmall(filepath.Join(etc, "hosts")); strings.TrimSpace(old) != "" {
		hosts = old
	}
	return errors.Join(
		replaceFile(etc, "hostname", name+"\n", 0o644),
		replaceFile(etc, "hosts", withName(hosts, name), 0o644),
	)
}

// withName is hosts with name as a name of this machine, and no other of ours.
func withName(hosts, name string) string {
	var b strings.Builder
	for line := range strings.Lines(hosts) {
		if strings.HasSuffix(strings.TrimSpace(line), hostsMark) {
			continue
		}
		b.WriteString(line)
		if !strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	b.WriteString("127.0.1.1\t" + name + "\t" + hostsMark + "\n")
	return b.String()
}

// writeResolvConf makes resolv.conf a file with these servers; in an image it
// is often a link to what a resolver that does not run would write.
func writeResolvConf(etc string, servers []string) error {
	if len(servers) == 0 {
		return nil
	}
	var b strings.Builder
	for _, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return err
		}
		b.WriteString("nameserver " + addr.String() + "\n")
	}
	return replaceFile(etc, "resolv.conf", b.String(), 0o644)
}

// maxSmall bounds what is read of a file, in bytes.
const maxSmall = 64 << 10

// readSmall returns the text of a small regular file; "" if it is none. Package os
// would try to poll it: a command waits meanwhile.
func readSmall(path string) string {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxSmall {
		return ""
	}
	text := make([]byte, st.Size)
	n, err := unix.Pread(fd, text, 0)
	if err != nil {
		return ""
	}
	return string(text[:n])
}

// maxRewritten bounds a file that is written in place, in bytes: one block.
const maxRewritten = 4 << 10

// replaceFile makes dir/name a file with this text, whatever it was before.
func replaceFile(dir, name, text string, mode os.FileMode) error {
	path := filepath.Join(dir, name)
	if done, err := rewrite(path, text); done {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, "."+name+"-")
	if err != nil {
		return err
	}
	_, err = temp.WriteString(text)
	err = errors.Join(err, temp.Chmod(mode), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		os.Remove(temp.Name())
	}
	return err
}

// rewrite gives a small file that is nothing but that another text, in place. It
// is what an emulated guest does while a command waits for it: a new file with its
// old name took 8 ms. A guest that loses its power in the middle of it writes the
// file again as it boots. done is false if path is no such file.
func rewrite(path, text string) (done bool, err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || max(st.Size, int64(len(text))) > maxRewritten {
		return false, nil
	}
	old := make([]byte, st.Size)
	if n, err := unix.Pread(fd, old, 0); err == nil && string(old[:n]) == text {
		return true, nil
	}
	if _, err := unix.Pwrite(fd, []byte(text), 0); err != nil {
		return true, os.NewSyscallError("pwrite", err)
	}
	if st.Size <= int64(len(text)) {
		return true, nil
	}
	return true, os.NewSyscallError("ftruncate", unix.Ftruncate(fd, int64(len(text))))
}
