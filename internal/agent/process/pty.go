package process

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal asks for a pseudo-terminal.
type Terminal struct {
	Rows, Cols uint32
	// Modes are terminal modes by their number in RFC 4254, section 8; the
	// others keep the kernel's default.
	Modes map[uint8]uint32
}

func winsize(rows, cols uint32) *unix.Winsize {
	const most = 1<<16 - 1 // the kernel keeps 16 bits
	return &unix.Winsize{Row: uint16(min(rows, most)), Col: uint16(min(cols, most))}
}

// openTerminal makes a pseudo-terminal and returns its two ends. The slave is
// opened through the master, so that it needs no path below /dev/pts.
func openTerminal(t *Terminal) (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	err = control(master, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER,
			unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			return errno
		}
		slave = os.NewFile(peer, "pts")
		return nil
	})
	if err == nil {
		err = control(slave, func(fd int) error { return setTerminal(fd, t) })
	}
	if err != nil {
		_ = master.Close()
		_ = slave.Close()
		return nil, nil, fmt.Errorf("terminal: %w", err)
	}
	return master, slave, nil
}

// control runs f with the descriptor of file, which stays non-blocking.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

func resizeTerminal(master *os.File, rows, cols uint32) error {
	return control(master, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, winsize(rows, cols))
	})
}

// foreground returns the process group that has the terminal, or 0.
func foreground(master *os.File) int {
	group := 0
	_ = control(master, func(fd int) (err error) {
		group, err = unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		return err
	})
	return max(group, 0)
}

// terminalEOF returns the end-of-file character, if the terminal has one now.
func terminalEOF(master *os.File) []byte {
	var eof []byte
	_ = control(master, func(fd int) error {
		t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil && t.Lflag&unix.ICANON != 0 && t.Cc[unix.VEOF] != 0 {
			eof = []byte{t.Cc[unix.VEOF]}
		}
		return err
	})
	return eof
}

// evictWriter ends a write that waits on a terminal.
func evictWriter(master *os.File) { _ = master.SetWriteDeadline(time.Unix(1, 0)) }

// setTerminal applies the size and modes of t.
func setTerminal(fd int, t *Terminal) error {
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, winsize(t.Rows, t.Cols)); err != nil {
		return err
	}
	termios, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	termios.Iflag |= unix.IUTF8
	for opcode, value := range t.Modes {
		setMode(termios, opcode, value)
	}
	return unix.IoctlSetTermios(fd, unix.TCSETS, termios)
}

// setMode sets one mode by its RFC 4254 number; unknown ones are passed over.
func setMode(t *unix.Termios, opcode uint8, value uint32) {
	if index, ok := modeChars(opcode); ok {
		t.Cc[index] = uint8(value) // 255 there is "none", and 0 is Linux's "none"
		if value == 255 {
			t.Cc[index] = 0
		}
		return
	}
	flags, bit := modeFlag(t, opcode)
	switch {
	case bit == 0:
	case value != 0:
		*flags |= bit
	default:
		*flags &^= bit
	}
}

// modeChars is the index in termios of a control character.
func modeChars(opcode uint8) (int, bool) {
	chars := [...]int{
		1: unix.VINTR, 2: unix.VQUIT, 3: unix.VERASE, 4: unix.VKILL, 5: unix.VEOF,
		6: unix.VEOL, 7: unix.VEOL2, 8: unix.VSTART, 9: unix.VSTOP, 10: unix.VSUSP,
		12: unix.VREPRINT, 13: unix.VWERASE, 14: unix.VLNEXT, 18: unix.VDISCARD,
	}
	// 11 is DSUSP, and 15 to 17 are of other systems too.
	if int(opcode) >= len(chars) || opcode == 0 || opcode == 11 || opcode >= 15 && opcode <= 17 {
		return 0, false
	}
	return chars[opcode], true
}

// modeFlag is the word of termios and the bit in it of a flag, or bit 0.
func modeFlag(t *unix.Termios, opcode uint8) (flags *uint32, bit uint32) {
	input := [...]uint32{
		unix.IGNPAR, unix.PARMRK, unix.INPCK, unix.ISTRIP, unix.INLCR, unix.IGNCR, unix.ICRNL,
		unix.IUCLC, unix.IXON, unix.IXANY, unix.IXOFF, unix.IMAXBEL, unix.IUTF8,
	}
	local := [...]uint32{
		unix.ISIG, unix.ICANON, unix.XCASE, unix.ECHO, unix.ECHOE, unix.ECHOK, unix.ECHONL,
		unix.NOFLSH, unix.TOSTOP, unix.IEXTEN, unix.ECHOCTL, unix.ECHOKE, unix.PENDIN,
	}
	output := [...]uint32{unix.OPOST, unix.OLCUC, unix.ONLCR, unix.OCRNL, unix.ONOCR, unix.ONLRET}
	switch n := int(opcode); {
	case n >= 30 && n < 30+len(input):
		return &t.Iflag, input[n-30]
	case n >= 50 && n < 50+len(local):
		return &t.Lflag, local[n-50]
	case n >= 70 && n < 70+len(output):
		return &t.Oflag, output[n-70]
	}
	return nil, 0
}
