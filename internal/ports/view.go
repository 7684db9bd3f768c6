package ports

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Port is one line of what is told about a VM's ports.
type Port struct {
	Listener // without Addrs, nothing listens there now
	// Host is where it is reached; invalid: nowhere.
	Host netip.AddrPort
	// Reason is why that is another port than the guest's, or none.
	Reason    string
	Published bool
	// Protocol is "tcp", or what a probe found.
	Protocol string
}

// View is all ports: what is published first, then by number. more says that the
// guest has more than are followed.
func (t *Table) View() (list []Port, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	best := map[uint16]Listener{}
	for _, l := range t.list {
		if _, known := best[l.Port]; !known {
			best[l.Port] = l
		}
	}
	for _, f := range t.published {
		p := f.view()
		if l, ok := best[f.guest]; ok {
			p.Listener = l
		}
		list = append(list, p)
	}
	for _, l := range t.list {
		p := Port{Listener: l, Protocol: protoTCP}
		switch f := t.forwards[l.Port]; {
		case best[l.Port].PID != l.PID:
			p.Reason = fmt.Sprintf("port %d leads to another socket of the VM, on %s", l.Port, best[l.Port].Addrs[0])
		case f != nil:
			p.Host, p.Reason = f.view().Host, f.reason
		default:
			p.Reason = "the VM has no address of its own"
		}
		list = append(list, p)
	}
	return list, t.more
}

func (f *forward) view() Port {
	p := Port{Listener: Listener{Port: f.guest}, Published: f.published, Reason: f.reason, Protocol: protoTCP}
	if f.listener != nil {
		p.Host = f.host
	}
	return p
}

// bindReason says for a person why a port could not be opened.
func bindReason(at netip.AddrPort, err error) string {
	switch {
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("port %d needs a right that you lack (sysctl net.ipv4.ip_unprivileged_port_start)", at.Port())
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("port %d is taken on this host", at.Port())
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is not an address of this host", at.Addr())
	}
	return fmt.Sprintf("port %d cannot be opened: %v", at.Port(), err)
}
