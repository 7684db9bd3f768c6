package testguest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"sync"
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
	// PortMemory keeps what it gets, if that is not nothing, in place of what
	// it kept, and sends what it keeps.
	PortMemory
	// PortResetNetwork has the guest's driver reset its network device.
	PortResetNetwork
	// PortFlood fills the data channel with junk until the next reset.
	PortFlood
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
	// ResetNetwork may be nil: there is no device.
	ResetNetwork func()
	// Data is the data channel, for PortFlood.
	Data Channel
	// Saved is what Keep's function returned when this guest was frozen; nil:
	// it was not. A machine that freezes memory itself has neither.
	Saved []byte
	Keep  func(save func() []byte)
}

// Flood writes junk to a channel until that fails.
func Flood(c Channel) {
	for junk := bytes.Repeat([]byte("\xffjunk"), 8<<10); ; {
		if _, err := c.Write(junk); err != nil {
			return
		}
	}
}

// self is what a guest is, beyond its program.
type self struct {
	mu       sync.Mutex
	Identity []byte
	Memory   []byte
}

func newSelf(m Machine) *self {
	s := &self{}
	if json.Unmarshal(m.Saved, s) != nil || len(s.Identity) == 0 {
		s.Identity = make([]byte, 16)
		rand.Read(s.Identity)
	}
	if m.Keep != nil {
		m.Keep(func() []byte {
			s.mu.Lock()
			defer s.mu.Unlock()
			text, _ := json.Marshal(s) // two byte slices: no error
			return text
		})
	}
	return s
}

// remember keeps data, if there is any, and returns what is kept.
func (s *self) remember(data []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(data) > 0 {
		s.Memory = data
	}
	return s.Memory
}

// Services returns the handler of the suite's ports.
func Services(m Machine) Handler {
	s := newSelf(m)
	return func(port uint32, conn net.Conn) {
		defer conn.Close()
		switch port {
		case PortEcho:
			io.Copy(conn, conn)
		case PortConsole:
			io.Copy(m.Console, conn)
		case PortIdentity:
			io.Copy(io.Discard, conn) // a close before the peer's would be a reset
			io.WriteString(conn, hex.EncodeToString(s.Identity))
		case PortPowerOff:
			m.PowerOff()
		case PortCrash:
			m.Crash()
		case PortMemory:
			if data, err := io.ReadAll(conn); err == nil {
				conn.Write(s.remember(data))
			}
		case PortResetNetwork:
			io.Copy(io.Discard, conn)
			if m.ResetNetwork != nil {
				m.ResetNetwork()
			}
		case PortFlood:
			Flood(m.Data)
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
