package daemon

import (
	"errors"
	"hash/fnv"
	"net"
	"net/netip"
	"syscall"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/config"
)

// freeAddress finds an address that no VM has; empty if all are taken. They are
// given in turn, so that the next VM does not get that of the last, which others
// may still remember. Each home begins at a place of its own: the homes of one user
// share the range. The caller holds d.mu.
func (d *Daemon) freeAddress() string {
	prefix, used := d.addresses, map[string]bool{}
	for _, m := range d.vms {
		used[m.look().rec.Address] = true
	}
	count := 1 << (32 - prefix.Bits())
	if d.address == 0 {
		hash := fnv.New32a()
		hash.Write([]byte(d.opts.Home.State))
		d.address = int(hash.Sum32() % uint32(count))
	}
	for range count {
		d.address = (d.address + 1) % count
		addr := config.HostOf(prefix, d.address)
		// Those that look like a network's are left out, too.
		if last := addr.As4()[3]; last == 0 || last == 255 || last == config.DNSHost || used[addr.String()] {
			continue
		}
		return addr.String()
	}
	d.log.Warn("a VM gets no address: all of the range are taken", "range", prefix)
	return ""
}

// settleAddress gives an address to a VM that has none of the present range: it is
// of an older banger, or the config has changed. The caller has the turn.
func (m *machine) settleAddress() {
	if addr, err := netip.ParseAddr(m.look().rec.Address); err == nil && m.d.addresses.Contains(addr) {
		return
	}
	m.d.mu.Lock()
	defer m.d.mu.Unlock()
	fresh := m.d.freeAddress()
	m.set(func() { m.rec.Address = fresh })
}

// maxPublish bounds the published ports of a VM.
const maxPublish = 256

// takePublish reads the ports of a request.
func takePublish(asked []*bangerv1.Publish) ([]banger.Publish, error) {
	if len(asked) > maxPublish {
		return nil, banger.Errorf(banger.CodeUsage, "%d published ports are too many: at most %d", len(asked), maxPublish).
			WithHint("banger vm ports NAME: what listens in a VM is reached without it")
	}
	var list []banger.Publish
	taken := map[netip.AddrPort]bool{}
	for _, p := range asked {
		addr, err := netip.ParseAddr(or(p.Address, "127.0.0.1"))
		if err != nil || p.HostPort < 1 || p.HostPort > 65535 || p.GuestPort < 1 || p.GuestPort > 65535 {
			return nil, banger.Errorf(banger.CodeUsage, "published port %q:%d:%d makes no sense", p.Address, p.HostPort, p.GuestPort).
				WithHint("127.0.0.1:8080:80")
		}
		host := netip.AddrPortFrom(addr.Unmap(), uint16(p.HostPort))
		if taken[host] {
			return nil, banger.Errorf(banger.CodeUsage, "port %s is published twice", host).WithHint("another number for one of them")
		}
		taken[host] = true
		list = append(list, banger.Publish{Host: host, Guest: uint16(p.GuestPort)})
	}
	return list, nil
}

// checkFree refuses published ports that cannot be opened now. The supervisor,
// which opens them for good, would only say so to who asks for the ports.
func checkFree(list []banger.Publish) error {
	for _, p := range list {
		network := "tcp4" // as the supervisor does: [::] is no address of IPv4
		if p.Host.Addr().Is6() {
			network = "tcp6"
		}
		l, err := net.ListenTCP(network, net.TCPAddrFromAddrPort(p.Host))
		if err == nil {
			err = l.Close()
		}
		switch {
		case err == nil:
		case errors.Is(err, syscall.EACCES):
			return banger.Errorf(banger.CodeUnavailable, "port %s cannot be published: it needs a right that you lack", p.Host).
				WithHint("a number above 1023, or sudo sysctl net.ipv4.ip_unprivileged_port_start=%d", p.Host.Port())
		case errors.Is(err, syscall.EADDRINUSE):
			return banger.Errorf(banger.CodeWrongState, "port %s cannot be published: it is taken on this host", p.Host).
				WithHint("another number, or ss -ltnp 'sport = :%d' to see who has it", p.Host.Port())
		default:
			return banger.Errorf(banger.CodeUsage, "port %s cannot be published: %w", p.Host, err).WithHint("an address of this host")
		}
	}
	return nil
}

func publishMessages(list []banger.Publish) (out []*bangerv1.Publish) {
	for _, p := range list {
		out = append(out, &bangerv1.Publish{Address: p.Host.Addr().String(), HostPort: uint32(p.Host.Port()), GuestPort: uint32(p.Guest)})
	}
	return out
}

func publishSpec(list []banger.Publish) (out []*vmv1.Publish) {
	for _, p := range list {
		out = append(out, &vmv1.Publish{Address: p.Host.Addr().String(), HostPort: uint32(p.Host.Port()), GuestPort: uint32(p.Guest)})
	}
	return out
}

// publishOf reads the ports of a spec; what makes no sense is left out.
func publishOf(list []*vmv1.Publish) (out []banger.Publish) {
	for _, p := range list {
		addr, err := netip.ParseAddr(p.Address)
		if err == nil && p.HostPort <= 65535 && p.GuestPort <= 65535 {
			out = append(out, banger.Publish{Host: netip.AddrPortFrom(addr, uint16(p.HostPort)), Guest: uint16(p.GuestPort)})
		}
	}
	return out
}
