package testguest

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
)

// The guest ports that the conformance suite uses.
const (
	// PortEcho sends back what it gets.
	PortEcho = 2000 + iota
	// PortConsole writes what it gets on the guest's console, then ends.
	PortConsole
	// PortIdentity sends a name that this guest, from its start on, alone has.
	PortIdentity
	// PortPowerOff powers the guest off.
	PortPowerOff
	// PortCrash ends the guest in any other way.
	PortCrash
)

// Names of the virtio-serial ports, as the guest finds them.
const (
	NameCtl  = "banger.ctl"
	NameData = "banger.data"
)

// EtherType marks frames that the guest sends back, addresses exchanged (a
// number for local experiments, IEEE 802).
const EtherType = 0x88b5

// Machine is what the services need of the machine they run on.
type Machine struct {
	Console  io.Writer
	PowerOff func()
	Crash    func()
}

// Services returns the handler of the suite's ports.
func Services(m Machine) Handler {
	identity := make([]byte, 16)
	rand.Read(identity)
	return func(port uint32, conn net.Conn) {
		defer conn.Close()
		switch port {
		case PortEcho:
			io.Copy(conn, conn)
		case PortConsole:
			io.Copy(m.Console, conn)
		case PortIdentity:
			io.Copy(io.Discard, conn) // a close before the peer's would be a reset
			io.WriteString(conn, hex.EncodeToString(identity))
		case PortPowerOff:
			m.PowerOff()
		case PortCrash:
			m.Crash()
		}
	}
}

// Answer turns a frame into the guest's answer to it, in place. It reports
// whether there is one.
func Answer(frame []byte) bool {
	if len(frame) < 14 || binary.BigEndian.Uint16(frame[12:]) != EtherType {
		return false
	}
	var to [6]byte
	copy(to[:], frame)
	copy(frame, frame[6:12])
	copy(frame[6:], to[:])
	return true
}
