package ports

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The request and the answer of sock_diag(7): struct inet_diag_req_v2 and struct
// inet_diag_msg of linux/inet_diag.h.
const (
	diagRequest = 56
	diagAnswer  = 72
	diagIDAt    = 8  // of inet_diag_sockid in the request; 4 in the answer
	diagUIDAt   = 64 // in the answer
	diagInodeAt = 68
	allStates   = 0xffffffff
	tcpListen   = 10
)

// diagTime bounds the kernel's answer, which needs nobody else.
const diagTime = 2 * time.Second

// peerUID returns the user whose process has the other end of a connection within
// this host. One whose socket is closed already belongs to nobody that could be
// named: an error.
func peerUID(conn *net.TCPConn) (uid uint32, err error) {
	theirs, ok := conn.RemoteAddr().(*net.TCPAddr)
	ours, ok2 := conn.LocalAddr().(*net.TCPAddr)
	if !ok || !ok2 {
		return 0, errors.New("no address")
	}
	answer, err := askSocket(theirs.AddrPort(), ours.AddrPort())
	if err != nil {
		return 0, fmt.Errorf("socket of %s: %w", theirs, err)
	}
	return answer, nil
}

// askSocket asks the kernel who has the socket between two IPv4 addresses.
func askSocket(local, remote netip.AddrPort) (uid uint32, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(diagTime.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	request := diagQuery(local, remote)
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, os.NewSyscallError("sendto", err)
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return 0, os.NewSyscallError("recvfrom", err)
	}
	// The answer names the socket as the question did.
	id := request[unix.NLMSG_HDRLEN+diagIDAt:][:diagIDLength]
	return diagUID(buf[:n], id)
}

// diagIDLength is what of a socket's name is compared: ports and addresses.
const diagIDLength = 2 + 2 + 16 + 16

// diagQuery makes the question for one connected socket.
func diagQuery(local, remote netip.AddrPort) []byte {
	m := make([]byte, unix.NLMSG_HDRLEN+diagRequest)
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST)
	body := m[unix.NLMSG_HDRLEN:]
	body[0], body[1] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], allStates)
	id := body[diagIDAt:]
	binary.BigEndian.PutUint16(id, local.Port())
	binary.BigEndian.PutUint16(id[2:], remote.Port())
	from, to := local.Addr().Unmap().As4(), remote.Addr().Unmap().As4()
	copy(id[4:], from[:])
	copy(id[20:], to[:])
	for i := 40; i < 48; i++ { // no cookie is asked for
		id[i] = 0xff
	}
	return m
}

// diagUID reads the answer. The kernel may also name a socket that merely listens
// on the address.
func diagUID(m, id []byte) (uint32, error) {
	if len(m) < unix.NLMSG_HDRLEN+4 {
		return 0, errors.New("short answer")
	}
	kind, body := binary.NativeEndian.Uint16(m[4:]), m[unix.NLMSG_HDRLEN:]
	if kind == unix.NLMSG_ERROR {
		return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
	}
	if kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < diagAnswer {
		return 0, fmt.Errorf("answer of type %d", kind)
	}
	// A socket of IPv6 that speaks IPv4 is named with mapped addresses.
	named := body[4:][:diagIDLength]
	if body[0] == unix.AF_INET && string(named) != string(id) || string(named[:4]) != string(id[:4]) || body[1] == tcpListen {
		return 0, errors.New("another socket")
	}
	if binary.NativeEndian.Uint32(body[diagInodeAt:]) == 0 {
		return 0, errors.New("it is closed")
	}
	return binary.NativeEndian.Uint32(body[diagUIDAt:]), nil
}
