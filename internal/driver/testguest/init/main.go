// Command init is the first process of a real VM under test: it loads the
// modules of its initramfs and serves testguest over the virtio-serial ports.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver/testguest"
)

func main() {
	err := run()
	fmt.Fprintln(os.Stderr, "guest: failed:", err)
	end(unix.LINUX_REBOOT_CMD_RESTART)
}

func run() error {
	for _, m := range []struct{ what, where string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	events, err := listenEvents()
	if err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	ctl, err := awaitPort(events, testguest.NameCtl)
	if err != nil {
		return err
	}
	data, err := awaitPort(events, testguest.NameData)
	if err != nil {
		return err
	}
	frames, err := openNetwork()
	if err != nil {
		return err
	}
	go frames.serve()
	disks, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return err
	}
	for _, disk := range disks {
		serial, err := os.ReadFile(disk)
		if err != nil {
			return err
		}
		fmt.Printf("guest: disk %s\n", serial)
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	fmt.Fprintln(console, "guest: up")
	g := &testguest.Guest{Ctl: ctl, Data: data, Handle: testguest.Services(testguest.Machine{
		Console:      console,
		Data:         data,
		ResetNetwork: resetNetwork,
		PowerOff:     func() { end(unix.LINUX_REBOOT_CMD_POWER_OFF) },
		Crash:        func() { end(unix.LINUX_REBOOT_CMD_RESTART) },
	})}
	return g.Serve(context.Background())
}

func end(how int) {
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		fmt.Fprintln(os.Stderr, "guest: reboot:", err)
	}
	select {}
}

// loadModules inserts what the host put there, in the order of its names.
func loadModules(dir string) error {
	files, err := filepath.Glob(dir + "/*.ko")
	if err != nil {
		return err
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// resetNetwork takes the driver off its device and puts it back.
func resetNetwork() {
	const driver = "/sys/bus/virtio/drivers/virtio_net/"
	devices, err := filepath.Glob(driver + "virtio*")
	for _, device := range devices {
		name := []byte(filepath.Base(device))
		err = errors.Join(err, os.WriteFile(driver+"unbind", name, 0), os.WriteFile(driver+"bind", name, 0))
	}
	if err != nil || len(devices) == 0 {
		fmt.Fprintln(os.Stderr, "guest: reset the network:", err)
	}
}

// port is a virtio-serial port. While the host's side is closed a read gives
// 0 bytes; here that is a wait and not the end.
type port struct{ *os.File }

// listenEvents returns a socket of the kernel's device events.
func listenEvents() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, err
	}
	return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
}

// awaitPort opens the port of that name. A port gets its name some time after
// its driver is loaded, by a message from the VMM, and an event tells of it.
func awaitPort(events int, name string) (*port, error) {
	buf := make([]byte, 64<<10)
	for {
		if p, err := openPort(name); p != nil || err != nil {
			return p, err
		}
		if _, _, err := unix.Recvfrom(events, buf, 0); err != nil && err != unix.EINTR && err != unix.ENOBUFS {
			return nil, fmt.Errorf("device events: %w", err)
		}
	}
}

// openPort returns nil if there is no port of that name yet.
func openPort(name string) (*port, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		got, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(got)) != name {
			continue
		}
		f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		return &port{f}, nil
	}
	return nil, nil
}

// Read implements io.Reader.
func (p *port) Read(b []byte) (n int, err error) {
	raw, err := p.SyscallConn()
	if err != nil {
		return 0, err
	}
	waitErr := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), b)
		return n > 0 || (err != nil && err != unix.EAGAIN && err != unix.EINTR)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return max(n, 0), err
}

// wire is the guest's end of its network: raw frames of eth0.
type wire struct{ fd int }

func openNetwork() (*wire, error) {
	mac, err := net.ParseMAC(banger.GuestMAC)
	if err != nil {
		return nil, err
	}
	links, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if link.HardwareAddr.String() != mac.String() {
			continue
		}
		if link.MTU != banger.GuestMTU {
			return nil, fmt.Errorf("%s has MTU %d", link.Name, link.MTU)
		}
		return bind(link)
	}
	return nil, fmt.Errorf("no network device with address %s", mac)
}

// bind brings link up and opens it.
func bind(link net.Interface) (*wire, error) {
	proto := uint16(testguest.EtherType<<8&0xff00 | testguest.EtherType>>8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(link.Name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return nil, fmt.Errorf("%s up: %w", link.Name, err)
	}
	return &wire{fd}, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Index})
}

// serve answers frames for as long as the guest runs.
func (w *wire) serve() {
	frame := make([]byte, 1<<17)
	for {
		n, from, err := unix.Recvfrom(w.fd, frame, 0)
		if err != nil {
			return
		}
		sender, ok := from.(*unix.SockaddrLinklayer)
		if ok && sender.Pkttype != unix.PACKET_OUTGOING && testguest.Answer(frame[:n]) {
			unix.Write(w.fd, frame[:n])
		}
	}
}
