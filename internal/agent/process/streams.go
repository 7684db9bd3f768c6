package process

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/agent/account"
)

// pipeSize is the capacity of a command's pipes in bytes: with the kernel's
// 64 KiB the command and the agent take turns at every buffer.
const pipeSize = 256 << 10

// streams are the descriptors of a command, both ends of them.
type streams struct {
	tty     *os.File   // the master of its terminal, or nil
	input   *os.File   // where its input is written; the tty, or nil
	outputs []*os.File // stdout and stderr, or the tty
	child   [3]*os.File
}

func openStreams(who *account.Account, spec *Spec, users account.Database) (*streams, error) {
	s := &streams{}
	var err error
	if spec.Terminal != nil {
		err = s.openTerminal(who, spec, users)
	} else {
		err = s.openPipes(who, spec)
	}
	if err != nil {
		s.closeOurs()
		s.closeChild()
		return nil, fmt.Errorf("streams of the command: %w", err)
	}
	return s, nil
}

func (s *streams) openTerminal(who *account.Account, spec *Spec, users account.Database) error {
	master, slave, err := openTerminal(spec.Terminal)
	if err != nil {
		return err
	}
	s.tty, s.outputs = master, []*os.File{master}
	s.child = [3]*os.File{slave, slave, slave}
	group, ok := users.GroupID("tty")
	if !ok {
		group = who.GID
	}
	if err := slave.Chown(int(who.UID), int(group)); err != nil && os.Geteuid() == 0 {
		return err
	}
	if err := slave.Chmod(0o620); err != nil {
		return err
	}
	if spec.Stdin {
		s.input = master
		return nil
	}
	s.child[0], err = os.Open(os.DevNull)
	return err
}

func (s *streams) openPipes(who *account.Account, spec *Spec) error {
	var err error
	if spec.Stdin {
		s.child[0], s.input, err = pipe(who, 1)
	} else {
		s.child[0], err = os.Open(os.DevNull)
	}
	for i := 1; i <= 2 && err == nil; i++ {
		var out *os.File
		if out, s.child[i], err = pipe(who, 0); err == nil {
			s.outputs = append(s.outputs, out)
		}
	}
	return err
}

// pipe makes a pipe that belongs to who, so that it may open /dev/stdout anew. Our
// end of it, 0 to read or 1 to write, does not block, and only that is polled:
// os.Pipe would have both ends so, and for each make five calls more.
func pipe(who *account.Account, ours int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	// Best effort: a smaller pipe works as well, only slower.
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	if who.UID != 0 {
		err = os.NewSyscallError("fchown", unix.Fchown(fds[0], int(who.UID), int(who.GID)))
	}
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fds[ours]), unix.F_SETFL, unix.O_NONBLOCK)
	}
	r, w = os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	if err != nil {
		_ = r.Close()
		_ = w.Close()
		return nil, nil, err
	}
	return r, w, nil
}

// descriptors are the command's 0, 1 and 2, in blocking mode.
func (s *streams) descriptors() []uintptr {
	return []uintptr{s.child[0].Fd(), s.child[1].Fd(), s.child[2].Fd()}
}

func (s *streams) closeChild() {
	for i, file := range s.child {
		if file != nil && !slices.Contains(s.child[:i], file) {
			_ = file.Close()
		}
	}
}

func (s *streams) closeOurs() {
	for _, file := range s.outputs {
		_ = file.Close()
	}
	if s.input != nil && s.tty == nil {
		_ = s.input.Close()
	}
}

// splitFrame takes the first of whole frames.
func splitFrame(frames []byte) (kind stream.Kind, payload, rest []byte) {
	end := stream.HeaderSize + int(binary.LittleEndian.Uint32(frames[1:]))
	return stream.Kind(frames[0]), frames[stream.HeaderSize:end], frames[end:]
}
