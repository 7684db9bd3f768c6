package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideVar marks the process that runs in namespaces of its own.
const insideVar = "BANGER_NETWORK_TEST_INSIDE"

// TestMain runs the tests in a network and mount namespace of their own (and a
// user namespace for who is not root): what they make there is gone with them,
// also when they are killed.
func TestMain(m *testing.M) {
	if os.Getenv(insideVar) != "" {
		if err := prepareInside(); err != nil {
			fmt.Fprintln(os.Stderr, "test namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
	}
	if uid := os.Geteuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread that starts the process
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "these tests need network namespaces (root, or user namespaces for users):", err)
		os.Exit(1)
	}
}

// prepareInside gives this process a loopback interface, and a /run of its own,
// where ip(8) names network namespaces. The machine must not see that: mounts
// travel where they are shared.
func prepareInside() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link: %w: %s", err, out)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("none", "/run", "tmpfs", 0, "")
}

// outside is a host of its own for the guest to reach: a network namespace at
// the other end of a veth pair. Its address is of those for benchmarks of network
// devices (RFC 2544), which no policy refuses.
type outside struct {
	t      testing.TB
	name   string
	addr   netip.Addr // of the host in the namespace
	router netip.Addr // of this machine's end: one of its own addresses
	nobody netip.Addr // on the way there, and never answers
}

// outsides numbers the namespaces of this process.
var outsides atomic.Uint32

func newOutside(t testing.TB) *outside {
	t.Helper()
	number := outsides.Add(1)
	subnet := func(host uint32) netip.Addr {
		return netip.AddrFrom4([4]byte{198, 18, byte(number / 32), byte(number%32*8 + host)})
	}
	o := &outside{
		t: t, name: fmt.Sprintf("out%d", number), router: subnet(1), addr: subnet(2), nobody: subnet(5),
	}
	o.ip("netns", "add", o.name)
	t.Cleanup(func() { o.ip("netns", "del", o.name) })
	o.ip("link", "add", o.name, "type", "veth", "peer", "name", "eth0", "netns", o.name)
	t.Cleanup(func() { o.ip("link", "del", o.name) })
	o.ip("addr", "add", o.router.String()+"/29", "dev", o.name)
	o.ip("link", "set", o.name, "up")
	o.ip("-n", o.name, "addr", "add", o.addr.String()+"/29", "dev", "eth0")
	o.ip("-n", o.name, "link", "set", "lo", "up")
	o.ip("-n", o.name, "link", "set", "eth0", "up")
	return o
}

func (o *outside) ip(args ...string) {
	o.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		o.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
}

// do runs f on a thread inside the namespace. Sockets made there stay there.
func (o *outside) do(f func() error) {
	o.t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + o.name)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	if err := <-result; err != nil {
		o.t.Fatal(err)
	}
}

// listen opens a TCP server on the host and runs handle for each connection.
func (o *outside) listen(handle func(*net.TCPConn)) netip.AddrPort {
	o.t.Helper()
	var listener *net.TCPListener
	o.do(func() (err error) {
		listener, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.addr, 0)))
		return err
	})
	return serveTCP(o.t, listener, handle)
}

func serveTCP(t testing.TB, listener *net.TCPListener, handle func(*net.TCPConn)) netip.AddrPort {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			running.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// listenUDP opens a UDP server on the host; handle returns the answer to a
// datagram, or nil for none.
func (o *outside) listenUDP(port uint16, handle func([]byte) []byte) netip.AddrPort {
	o.t.Helper()
	var conn *net.UDPConn
	o.do(func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(o.addr, port)))
		return err
	})
	return serveUDP(o.t, conn, handle)
}

func serveUDP(t testing.TB, conn *net.UDPConn, handle func([]byte) []byte) netip.AddrPort {
	var running sync.WaitGroup
	running.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			count, peer, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if answer := handle(buf[:count]); err == nil && answer != nil {
				_, _ = conn.WriteToUDPAddrPort(answer, peer)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		running.Wait()
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// echo sends back all that comes.
func echo(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }
