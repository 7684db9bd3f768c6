package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/policy"
)

func TestRefusedFast(t *testing.T) {
	out := newOutside(t)
	n, g := start(t, Config{NAT: true})
	want := map[policy.Reason]uint64{}
	for dst, reason := range map[string]policy.Reason{
		"10.1.2.3:80": policy.ReasonPrivate, "169.254.169.254:80": policy.ReasonMetadata, "100.64.1.1:80": policy.ReasonCGNAT,
		"192.168.127.1:80": policy.ReasonGuestNet, "192.168.127.77:1": policy.ReasonGuestNet, "240.0.0.1:1": policy.ReasonReserved,
		out.router.String() + ":22": policy.ReasonHost, "172.17.0.1:2375": policy.ReasonPrivate,
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, err := g.dial(ctx, netip.MustParseAddrPort(dst))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: %v, want refused", dst, err)
		}
		want[reason]++
	}
	got := n.Counters()
	for reason, count := range want {
		if got.Refused[reason] != count {
			t.Errorf("%d refused as %s, want %d", got.Refused[reason], reason, count)
		}
	}
	if again := g.stack.Stats().TCP.Retransmits.Value(); again != 0 {
		t.Errorf("the guest sent %d segments again", again)
	}
}

// The host's own address is reachable only when the config names it.
func TestHostAddressAllowed(t *testing.T) {
	out := newOutside(t)
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(out.router, 0)))
	if err != nil {
		t.Fatal(err)
	}
	server := serveTCP(t, listener, func(conn *net.TCPConn) { _, _ = conn.Write([]byte("host")) })
	_, g := start(t, Config{NAT: true, AllowPrivate: []netip.Prefix{netip.PrefixFrom(out.router, 32)}})
	if got, err := io.ReadAll(g.mustDial(server)); err != nil || string(got) != "host" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestNATOff(t *testing.T) {
	out := newOutside(t)
	var reached atomic.Int64
	server := out.listen(func(*net.TCPConn) { reached.Add(1) })
	datagrams := out.listenUDP(0, func([]byte) []byte { reached.Add(1); return nil })
	n, g := start(t, Config{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := g.dial(ctx, server); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("tcp: %v, want refused", err)
	}
	if _, err := g.dialUDP(datagrams).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the datagram is refused", func() bool { return n.Counters().Refused[policy.ReasonNAT] == 2 })
	if reached.Load() != 0 {
		t.Error("something left")
	}
}

// The policy is asked again at the moment of the dial.
func TestDialAsksAgain(t *testing.T) {
	out := newOutside(t)
	var reached atomic.Int64
	server := out.listen(func(*net.TCPConn) { reached.Add(1) })
	n, err := newNetwork(Config{}, &onceDecider{})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	flow := policy.Flow{Proto: policy.ProtoTCP, Dst: server}
	if !n.decide(flow).Allow {
		t.Fatal("refused at first")
	}
	if _, err := n.dial(flow); !errors.Is(err, errRefused) {
		t.Fatalf("%v, want refused", err)
	}
	if reached.Load() != 0 {
		t.Error("the server was reached")
	}
}

// PlainLookups implements Decider.
func (d *onceDecider) PlainLookups() bool { return false }

// onceDecider allows the first flow only.
type onceDecider struct{ asked atomic.Bool }

func (d *onceDecider) Decide(policy.Flow) policy.Verdict {
	if d.asked.Swap(true) {
		return policy.Verdict{Reason: policy.ReasonHost, Rule: "changed"}
	}
	return policy.Verdict{Allow: true}
}
