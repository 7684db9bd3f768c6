// Package linkwire is the reset protocol of the guest link, shared by the
// supervisor and the agent.
//
// A guest has two byte channels to its supervisor. Either may hold stale bytes
// of an earlier session: of a supervisor that was killed, or of the VM that
// this one was forked from. So every session begins with a reset:
//
//  1. The host writes a Doorbell with a fresh nonce on ctl. The agent finds it
//     with a sliding window, whatever stands before it.
//  2. The agent ends the old session, and writes Preamble(nonce) on data.
//  3. The host discards bytes until it has seen the preamble, then answers with
//     the same preamble; the agent discards until it has seen that.
//  4. Both start a new yamux session on data, the host as its client.
//
// A guest that is to stand still gets a Doorbell of KindEnd first: only steps 1 to 3
// then, and of 3 only the first half.
//
// Every stream then begins with the guest port it is for, 4 bytes little-endian
// (AppendPort); on a VMM with vsock the port is the vsock port, and nothing is
// written.
package linkwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// NonceSize is the length of a nonce in bytes.
const NonceSize = 16

// MaxPayload bounds the payload of a doorbell, in bytes.
const MaxPayload = 256 << 10

// Kinds of a doorbell.
const (
	// KindReset starts a session. The payload is empty or a serialised
	// banger.agent.v1.Boot, which the agent applies before the session starts.
	KindReset byte = 1
	// KindEnd ends the session, and starts none: nothing is under way in a guest
	// that is to be frozen. The agent answers with Preamble(nonce) when it has.
	KindEnd byte = 2
)

// Guest ports.
const (
	PortRPC     = 1024 // ttrpc, banger.agent.v1.Agent
	PortExec    = 1025 // one process per stream, frames of api/stream
	PortSSH     = 1026 // the agent's SSH server
	PortForward = 1027 // "host:port\n", then the bytes of a TCP connection
	PortCtl     = 1028 // doorbells, on a VMM with vsock
)

var (
	doorbellMagic = [8]byte{'B', 'N', 'G', 'R', 'b', 'e', 'l', '1'}
	preambleMagic = [8]byte{'B', 'N', 'G', 'R', 'p', 'r', 'e', '1'}
)

// Nonce names one session.
type Nonce [NonceSize]byte

// Doorbell is the one message of ctl, host to guest:
// magic 8, nonce 16, kind 1, payload length 4 (little-endian), payload,
// CRC-32C 4 (little-endian) over all before it.
type Doorbell struct {
	Nonce   Nonce
	Kind    byte
	Payload []byte
}

// castagnoli is the polynomial of CRC-32C, reversed.
const castagnoli = 0x82f63b78

// checksum is CRC-32C without tables. The messages are small, and the tables of
// hash/crc32 take an emulated guest 15 ms to make, each time it boots.
func checksum(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ castagnoli&-(crc&1)
		}
	}
	return ^crc
}

const doorbellHeader = 8 + NonceSize + 1 + 4

// Append encodes d to b.
func (d Doorbell) Append(b []byte) []byte {
	start := len(b)
	b = append(b, doorbellMagic[:]...)
	b = append(b, d.Nonce[:]...)
	b = append(b, d.Kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(d.Payload)))
	b = append(b, d.Payload...)
	return binary.LittleEndian.AppendUint32(b, checksum(b[start:]))
}

// Scanner finds doorbells in a stream that may hold anything else.
type Scanner struct{ buf []byte }

// Write adds bytes of ctl.
func (s *Scanner) Write(p []byte) { s.buf = append(s.buf, p...) }

// Next returns the next whole doorbell, if there is one.
func (s *Scanner) Next() (Doorbell, bool) {
	for {
		s.seek()
		if len(s.buf) < doorbellHeader {
			return Doorbell{}, false
		}
		size := binary.LittleEndian.Uint32(s.buf[doorbellHeader-4:])
		if size > MaxPayload {
			s.buf = s.buf[1:]
			continue
		}
		whole := doorbellHeader + int(size) + 4
		if len(s.buf) < whole {
			// A stale header may claim a payload that never comes: a later
			// whole doorbell inside the buffer wins.
			if at := s.laterWhole(); at > 0 {
				s.buf = s.buf[at:]
				continue
			}
			return Doorbell{}, false
		}
		d, ok := decode(s.buf[:whole])
		if !ok {
			s.buf = s.buf[1:]
			continue
		}
		s.buf = append([]byte(nil), s.buf[whole:]...)
		return d, true
	}
}

// seek drops what cannot be the start of a doorbell.
func (s *Scanner) seek() {
	if at := bytes.Index(s.buf, doorbellMagic[:]); at >= 0 {
		s.buf = s.buf[at:]
		return
	}
	if keep := len(doorbellMagic) - 1; len(s.buf) > keep {
		s.buf = append([]byte(nil), s.buf[len(s.buf)-keep:]...)
	}
}

// laterWhole returns the offset of a whole doorbell after the first byte, or 0.
func (s *Scanner) laterWhole() int {
	for at := 1; ; at++ {
		i := bytes.Index(s.buf[at:], doorbellMagic[:])
		if i < 0 {
			return 0
		}
		at += i
		rest := s.buf[at:]
		if len(rest) < doorbellHeader {
			return 0
		}
		size := binary.LittleEndian.Uint32(rest[doorbellHeader-4:])
		if size > MaxPayload || len(rest) < doorbellHeader+int(size)+4 {
			continue
		}
		if _, ok := decode(rest[:doorbellHeader+int(size)+4]); ok {
			return at
		}
	}
}

func decode(b []byte) (Doorbell, bool) {
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if checksum(body) != sum {
		return Doorbell{}, false
	}
	d := Doorbell{Kind: body[8+NonceSize], Payload: bytes.Clone(body[doorbellHeader:])}
	copy(d.Nonce[:], body[8:])
	return d, true
}

// PreambleSize is the length of a preamble in bytes.
const PreambleSize = 8 + NonceSize + 4

// Preamble is what both ends of data wait for: magic 8, nonce 16, CRC-32C 4.
func Preamble(n Nonce) []byte {
	b := append(preambleMagic[:len(preambleMagic):len(preambleMagic)], n[:]...)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// ErrNoPreamble is what SkipTo returns when the bound is used up.
var ErrNoPreamble = errors.New("no preamble within the bound")

// SkipTo discards bytes of r until the preamble of n has been read, and not one
// byte more. It gives up after limit bytes.
func SkipTo(r io.Reader, n Nonce, limit int64) error {
	want := Preamble(n)
	window := make([]byte, 0, 16*PreambleSize) // small: it is made while a host waits
	for discarded := int64(0); ; {
		// Never read past the end of the preamble: it ends at the earliest
		// PreambleSize minus the longest matching suffix from here.
		need := len(want) - overlap(window, want)
		if need == 0 {
			return nil
		}
		if discarded += int64(need); discarded > limit {
			return ErrNoPreamble
		}
		old := len(window)
		if old+need > cap(window) {
			tail := window[old-min(old, len(want)):]
			window = append(window[:0], tail...)
			old = len(window)
		}
		window = window[:old+need]
		if _, err := io.ReadFull(r, window[old:]); err != nil {
			return err
		}
	}
}

// overlap is the length of the longest suffix of b that begins want.
func overlap(b, want []byte) int {
	for n := min(len(b), len(want)); n > 0; n-- {
		if bytes.Equal(b[len(b)-n:], want[:n]) {
			return n
		}
	}
	return 0
}

// PortSize is the length of a stream's port header in bytes.
const PortSize = 4

// AppendPort encodes the header of a stream to port.
func AppendPort(b []byte, port uint32) []byte { return binary.LittleEndian.AppendUint32(b, port) }

// ReadPort reads the header of a stream.
func ReadPort(r io.Reader) (uint32, error) {
	var b [PortSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}
