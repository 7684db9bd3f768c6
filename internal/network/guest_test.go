package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// guest is what a VM is to the network: a whole stack of its own behind an
// Ethernet card, whose frames go over a socket as QEMU sends them.
type guest struct {
	t     testing.TB
	stack *stack.Stack
	card  *channel.Endpoint
}

func newGuest(t testing.TB) *guest {
	t.Helper()
	mac, err := tcpip.ParseMACAddress(banger.GuestMAC)
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, card: channel.New(256, banger.GuestMTU+header.EthernetMinimumSize, mac)}
	g.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	sack := tcpip.TCPSACKEnabled(true)
	g.must(g.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack))
	g.must(g.stack.CreateNIC(1, ethernet.New(g.card)))
	g.must(g.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
		Protocol: ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{
			Address: tcpip.AddrFrom4(guestAddr.As4()), PrefixLen: banger.GuestPrefix,
		},
	}, stack.AddressProperties{}))
	g.stack.SetRouteTable([]tcpip.Route{
		{Destination: guestSubnet(), NIC: 1},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gatewayAddr.As4()), NIC: 1},
	})
	t.Cleanup(g.stack.Destroy)
	return g
}

func (g *guest) must(err tcpip.Error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// plug joins the guest to n through a socket pair and returns the function that
// pulls the plug and gives what Attach returned.
func (g *guest) plug(ctx context.Context, n *Network) (unplug func() error) {
	g.t.Helper()
	ours, theirs := socketPair(g.t)
	attached := make(chan error, 1)
	go func() { attached <- n.Attach(ctx, theirs) }()
	stop := g.carry(ours)
	return sync.OnceValue(func() error {
		stop()
		return <-attached
	})
}

// carry moves frames between the card and conn until the returned function is
// called.
func (g *guest) carry(conn net.Conn) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for {
			pkt := g.card.ReadContext(ctx)
			if pkt == nil {
				return
			}
			frame := pkt.ToBuffer()
			bytes := frame.Flatten()
			_, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(bytes))), bytes...))
			frame.Release()
			pkt.DecRef()
			if err != nil {
				return
			}
		}
	})
	running.Go(func() {
		in := bufio.NewReader(conn)
		for {
			var length [4]byte
			if _, err := io.ReadFull(in, length[:]); err != nil {
				return
			}
			frame := make([]byte, binary.BigEndian.Uint32(length[:]))
			if _, err := io.ReadFull(in, frame); err != nil {
				return
			}
			pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(frame)})
			g.card.InjectInbound(0, pkt)
			pkt.DecRef()
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		conn.Close()
		running.Wait()
	})
}

// dial connects from inside the guest.
func (g *guest) dial(ctx context.Context, dst netip.AddrPort) (*gonet.TCPConn, error) {
	return gonet.DialContextTCP(ctx, g.stack, fullAddress(dst), ipv4.ProtocolNumber)
}

func (g *guest) mustDial(dst netip.AddrPort) *gonet.TCPConn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := g.dial(ctx, dst)
	if err != nil {
		g.t.Fatalf("the guest cannot connect to %s: %v", dst, err)
	}
	g.t.Cleanup(func() { conn.Close() })
	deadline(g.t, conn)
	return conn
}

// dialUDP makes a connected UDP socket in the guest.
func (g *guest) dialUDP(dst netip.AddrPort) *gonet.UDPConn {
	g.t.Helper()
	remote := fullAddress(dst)
	conn, err := gonet.DialUDP(g.stack, nil, &remote, ipv4.ProtocolNumber)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	deadline(g.t, conn)
	return conn
}

func fullAddress(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

// deadline makes a test that hangs fail.
func deadline(t testing.TB, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
}

func socketPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	a, b, err := pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func pair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

// start makes a network with a guest on it.
func start(t testing.TB, cfg Config) (*Network, *guest) {
	t.Helper()
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g := newGuest(t)
	unplug := g.plug(context.Background(), n)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if err := unplug(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error("Attach:", err)
		}
	})
	return n, g
}
