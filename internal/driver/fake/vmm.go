package fake

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver/testguest"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// The sockets passed to the VMM, from descriptor firstFile on.
const (
	sockControl = iota
	sockCtl
	sockData
	sockNet
	sockConsole
)

const firstFile = 4

// The lines of the control socket. Each connection begins with sayHello, or with
// sayWaits while the VMM waits for a frozen guest. What freeze answers and load
// brings follows the word as JSON.
const (
	sayHello    = "fake VMM"
	sayWaits    = "fake VMM waits"
	askRun      = "run"
	sayRunning  = "running"
	askPause    = "pause"
	sayPaused   = "paused"
	sayPoweroff = "powered off"
	askFreeze   = "freeze"
	sayFrozen   = "frozen "
	askLoad     = "load "
	sayLoaded   = "loaded"
)

// waitVar, set in its environment, has the VMM wait for a frozen guest.
const waitVar = "BANGER_FAKE_WAIT"

// maxLine bounds a line of the control socket, in bytes.
const maxLine = 64 << 20

// maxFrame bounds an Ethernet frame in bytes.
const maxFrame = 1 << 16

// Guest makes the guest's services; nil in Main stands for testguest.Services.
type Guest func(testguest.Machine) testguest.Handler

// vmm is the process.
type vmm struct {
	control, ctl, data, net, console *net.UnixListener

	out     *console
	running chan struct{} // closed by the first run
	once    sync.Once
	gate    gate

	mu     sync.Mutex
	host   net.Conn // present control connection
	waits  bool     // for a frozen guest
	loaded []byte   // what that kept
	keep   func() []byte
}

// Main is the VMM: it serves its sockets, and runs guest once it is told to,
// until the guest ends. It never returns nil: a guest's end ends the process.
func Main(guest Guest) error {
	if err := vmmproc.Await(); err != nil {
		return err
	}
	if guest == nil {
		guest = testguest.Services
	}
	v := &vmm{out: &console{}, running: make(chan struct{}), waits: os.Getenv(waitVar) != ""}
	for n, l := range []**net.UnixListener{
		sockControl: &v.control, sockCtl: &v.ctl, sockData: &v.data, sockNet: &v.net, sockConsole: &v.console,
	} {
		var err error
		if *l, err = inherited(firstFile + n); err != nil {
			return err
		}
	}
	ctlGuest, ctlHost, err := ring()
	if err != nil {
		return err
	}
	dataGuest, dataHost, err := ring()
	if err != nil {
		return err
	}
	go serve(v.ctl, func(c net.Conn) { relay(c, ctlHost, &v.gate) })
	go serve(v.data, func(c net.Conn) { relay(c, dataHost, &v.gate) })
	go serve(v.net, v.frames)
	go serve(v.console, v.out.attach)
	go serve(v.control, v.obey)

	<-v.running
	v.mu.Lock()
	m := testguest.Machine{
		Console: v.out, PowerOff: v.powerOff, Crash: func() { os.Exit(3) },
		Data: dataGuest, Saved: v.loaded, Keep: v.setKeep,
	}
	v.mu.Unlock()
	g := &testguest.Guest{Ctl: ctlGuest, Data: dataGuest, Handle: guest(m)}
	if m.Saved == nil {
		fmt.Fprintln(v.out, "fake guest: up")
	}
	return g.Serve(context.Background())
}

// setKeep is testguest.Machine's Keep.
func (v *vmm) setKeep(keep func() []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.keep = keep
}

func inherited(fd int) (*net.UnixListener, error) {
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return l.(*net.UnixListener), nil
}

// serve handles one connection after the other, as QEMU does.
func serve(l *net.UnixListener, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		handle(conn)
		conn.Close()
	}
}

// obey answers on the control socket.
func (v *vmm) obey(conn net.Conn) {
	v.mu.Lock()
	v.host = conn
	hello := sayHello
	if v.waits {
		hello = sayWaits
	}
	v.mu.Unlock()
	fmt.Fprintln(conn, hello)
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == askRun && !v.waiting():
			v.once.Do(func() { close(v.running) })
			v.gate.set(true)
			fmt.Fprintln(conn, sayRunning)
		case line == askPause:
			v.gate.set(false)
			fmt.Fprintln(conn, sayPaused)
		case line == askFreeze:
			fmt.Fprintf(conn, "%s%s\n", sayFrozen, v.freeze())
		case strings.HasPrefix(line, askLoad):
			v.load([]byte(line[len(askLoad):]))
			fmt.Fprintln(conn, sayLoaded)
		}
	}
}

func (v *vmm) waiting() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.waits
}

// freeze returns what the guest keeps. One that never ran keeps nothing.
func (v *vmm) freeze() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keep == nil {
		return []byte("{}")
	}
	return v.keep()
}

// load makes the guest one that was frozen.
func (v *vmm) load(kept []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.loaded, v.waits = kept, false
}

// powerOff ends the process as a guest that shut down does.
func (v *vmm) powerOff() {
	v.mu.Lock()
	if v.host != nil {
		fmt.Fprintln(v.host, sayPoweroff)
	}
	os.Exit(0)
}

// frames answers on the network.
func (v *vmm) frames(conn net.Conn) {
	<-v.running
	r := bufio.NewReader(conn)
	var size [4]byte
	for {
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > maxFrame {
			return
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		if testguest.Answer(frame) {
			if _, err := conn.Write(append(size[:], frame...)); err != nil {
				return
			}
		}
	}
}

// ring is a channel between guest and VMM that keeps what nobody has read, as a
// virtio ring does.
func ring() (guest, host net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ends := [2]net.Conn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "ring")
		if ends[i], err = net.FileConn(file); err != nil {
			return nil, nil, err
		}
		file.Close()
	}
	return ends[0], ends[1], nil
}
