package banger

import (
	"net/netip"
	"strconv"
	"strings"
)

// Publish leads a TCP port of the host to one of a guest.
type Publish struct {
	// Host is where the host listens.
	Host netip.AddrPort `json:"host"`
	// Guest is the guest's port.
	Guest uint16 `json:"guest"`
}

// String is the form that ParsePublish reads.
func (p Publish) String() string { return p.Host.String() + ":" + strconv.Itoa(int(p.Guest)) }

// ParsePublish reads [ADDR:]HOST:GUEST, where ADDR is an IP address of the host,
// that of IPv6 in brackets, and 127.0.0.1 if it is left out. The error is a usage
// error.
func ParsePublish(text string) (Publish, error) {
	bad := func(why string) (Publish, error) {
		return Publish{}, Errorf(CodeUsage, "%q is not [ADDR:]HOST:GUEST: %s", text, why).WithHint("8080:80, or 0.0.0.0:8080:80")
	}
	rest, guest, ok := cutLast(text)
	if !ok {
		return bad("there is one number only")
	}
	p := Publish{Host: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)}
	addr, host, withAddr := cutLast(rest)
	if !withAddr {
		host = rest
	} else {
		parsed, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"))
		if err != nil || parsed.Is6() != strings.HasPrefix(addr, "[") {
			return bad(strconv.Quote(addr) + " is not an IP address")
		}
		p.Host = netip.AddrPortFrom(parsed, 0)
	}
	hostPort, ok := parsePort(host)
	if !ok {
		return bad(strconv.Quote(host) + " is not a port from 1 to 65535")
	}
	p.Host = netip.AddrPortFrom(p.Host.Addr(), hostPort)
	if p.Guest, ok = parsePort(guest); !ok {
		return bad(strconv.Quote(guest) + " is not a port from 1 to 65535")
	}
	return p, nil
}

func cutLast(text string) (before, after string, found bool) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		return "", text, false
	}
	return text[:i], text[i+1:], true
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && n > 0
}
