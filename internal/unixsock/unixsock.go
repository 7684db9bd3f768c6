// Package unixsock listens on and connects to unix sockets of any path length,
// and lets only the owner's own processes in.
//
// A unix socket address holds 107 bytes of path. State directories are longer
// than that sooner or later, so the socket is reached as
// /proc/self/fd/N/name, where N is its directory.
package unixsock

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// through opens the directory of path and returns the short address; the
// caller closes the directory when the socket call is done.
func through(path string) (dir *os.File, short string, err error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	dir = os.NewFile(uintptr(fd), filepath.Dir(path))
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(path)), nil
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	dir, short, err := through(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", short)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", path, unwrapOp(err))
	}
	return conn.(*net.UnixConn), nil
}

// Listen makes a socket at path, mode 0600, replacing a stale one. The caller
// holds a lock that says no living process serves it. Closing the listener
// leaves the file: a successor replaces it.
func Listen(path string) (*net.UnixListener, error) {
	dir, short, err := through(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen %s: %w", path, unwrapOp(err))
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// unwrapOp drops the /proc path, which says nothing to a person.
func unwrapOp(err error) error {
	if op, ok := err.(*net.OpError); ok {
		return op.Err
	}
	return err
}

// OwnerOnly wraps a listener: connections of other users (root apart) are
// closed before they are seen.
func OwnerOnly(l *net.UnixListener) net.Listener { return ownerListener{l} }

type ownerListener struct{ *net.UnixListener }

func (l ownerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, err := PeerUID(conn); err == nil && (uid == os.Getuid() || uid == 0) {
			return conn, nil
		}
		conn.Close()
	}
}

// PeerUID returns the uid of the process at the other end (SO_PEERCRED).
func PeerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return -1, err
	}
	if credErr != nil {
		return -1, credErr
	}
	return int(cred.Uid), nil
}
