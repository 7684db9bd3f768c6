package confine

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Substitute is a file that the program opens by Path for reading and writing,
// as QEMU before 8.2 opens any memory file, and gets read-only: what many share
// cannot be changed by one that was broken into. File is open for reading. Path
// need not exist, and no Policy needs to grant it.
//
// The program's open goes to its starter (seccomp_unotify(2), Linux 5.9), until
// Started.Drop. From then on a plain O_RDWR open fails with ENOSYS.
type Substitute struct {
	Path string
	File *os.File
}

// continueFlag has the kernel run the call as if nobody had asked
// (SECCOMP_USER_NOTIF_FLAG_CONTINUE in linux/seccomp.h).
const continueFlag = 1

// notice, response and addFD are seccomp_notif, seccomp_notif_resp and
// seccomp_notif_addfd of linux/seccomp.h.
type notice struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

type addFD struct {
	id                                uint64
	flags, source, newFD, newFDsFlags uint32
}

// substitution answers the opens of one program.
type substitution struct {
	Substitute
	socket *net.UnixConn // gets the listener from the wrapper
	done   chan struct{} // serve has returned, or was never called

	mu       sync.Mutex
	serving  bool
	closed   bool
	listener *os.File
}

// newSubstitution returns the starter's end, and the file by which the wrapper
// sends the listener.
func newSubstitution(s Substitute) (*substitution, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "listener"), os.NewFile(uintptr(fds[1]), "listener")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return &substitution{Substitute: s, socket: conn.(*net.UnixConn), done: make(chan struct{})}, theirs, nil
}

// start begins to answer.
func (s *substitution) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.serving {
		return
	}
	s.serving = true
	go func() {
		defer close(s.done)
		// Whatever ends it, the program is told: its open fails.
		_ = s.serve()
	}()
}

// close ends the answers and waits for the last.
func (s *substitution) close() {
	s.mu.Lock()
	s.closed = true
	s.socket.Close()
	if s.listener != nil {
		s.listener.Close()
	}
	serving := s.serving
	s.mu.Unlock()
	if serving {
		<-s.done
	}
}

func (s *substitution) serve() error {
	listener, err := s.receive()
	if err != nil {
		return err
	}
	defer listener.Close()
	s.mu.Lock()
	s.listener = listener
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var answerErr error
		err := raw.Read(func(fd uintptr) bool {
			var ready bool
			ready, answerErr = s.answer(fd)
			return ready || answerErr != nil
		})
		if err := errors.Join(err, answerErr); err != nil {
			return err
		}
	}
}

// receive takes the listener from the wrapper.
func (s *substitution) receive() (*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := s.socket.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.Join(err, io.ErrUnexpectedEOF)
	}
	unix.CloseOnExec(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "seccomp listener"), nil
}

// answer answers one open, if there is one.
func (s *substitution) answer(fd uintptr) (bool, error) {
	// Asking for a notice would block without one.
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err != nil && err != unix.EINTR {
		return false, err
	}
	if poll[0].Revents&unix.POLLIN == 0 {
		if poll[0].Revents != 0 {
			return false, io.EOF // the program has ended
		}
		return false, nil
	}
	var n notice
	if err := control(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
		return true, gone(err)
	}
	r := response{id: n.id, flags: continueFlag}
	if s.asked(n) {
		add := addFD{id: n.id, source: uint32(s.File.Fd()), newFDsFlags: unix.O_CLOEXEC}
		got, err := controlValue(fd, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&add))
		if err != nil {
			return true, gone(err)
		}
		r = response{id: n.id, val: int64(got)}
	}
	return true, gone(control(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)))
}

// gone forgives the end, or a signal, of the thread that asked.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// asked reports whether the program opens Path. What it reads there may change
// under it: the worst that a program gets by that is the file it may have.
func (s *substitution) asked(n notice) bool {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid))
	if err != nil {
		return false
	}
	defer memory.Close()
	path := make([]byte, len(s.Path)+1)
	_, err = memory.ReadAt(path, int64(n.args[1]))
	return err == nil && string(path) == s.Path+"\x00"
}

func control(fd uintptr, request uint, arg unsafe.Pointer) error {
	_, err := controlValue(fd, request, arg)
	return err
}

func controlValue(fd uintptr, request uint, arg unsafe.Pointer) (int, error) {
	v, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(request), uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return int(v), nil
}

// announce has the plain O_RDWR opens of this thread, and of what it becomes,
// wait for an answer, and sends the listener for them over the socket fd. Which
// architecture calls does not matter: a call that is meant otherwise goes on.
func announce(fd int) error {
	const flags = 16 + 2*8 // of args[2] in seccomp_data, its low half
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: ^uint32(0o100000)}, // but O_LARGEFILE
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.O_RDWR, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("watch how files are opened: %w", errno)
	}
	defer unix.Close(int(listener))
	defer unix.Close(fd)
	return unix.Sendmsg(fd, []byte{0}, unix.UnixRights(int(listener)), nil, 0)
}
