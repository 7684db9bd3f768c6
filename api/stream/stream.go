// Package stream is the byte protocol of one process in a guest, spoken by a
// client and the agent through a supervisor that only copies bytes.
//
// A client connects to the VM's link socket and asks for a guest port:
//
//	CONNECT 1025\n        →
//	                      ←  OK\n            the connection is now the guest's
//	                      ←  ERR text\n      it is closed
//
// On the exec port both ends then send frames: kind 1, length 4 (little-endian),
// payload. The client's first frame is Start. The agent answers Started or
// Error, sends Stdout and Stderr, and ends with Exit, after which it waits for
// the client to close.
//
// Nothing is lost when the link breaks: the agent keeps output until the client
// has acknowledged it with Ack (cumulative count of Stdout and Stderr payload
// bytes), and the client keeps input until the agent has (cumulative count of
// Stdin payload bytes). A client that comes back with the same ExecStart.id
// and its count in ExecStart.received goes on where it was. Closing the
// connection is leaving: the process gets SIGHUP, and SIGKILL after a grace.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind is what a frame is.
type Kind byte

// The frames of an exec stream. C is the client, A the agent.
const (
	Start    Kind = 1  // C→A agentv1.ExecStart
	Started  Kind = 2  // A→C agentv1.ExecStarted
	Stdin    Kind = 3  // C→A bytes
	StdinEOF Kind = 4  // C→A empty
	Stdout   Kind = 5  // A→C bytes
	Stderr   Kind = 6  // A→C bytes
	Resize   Kind = 7  // C→A agentv1.WindowSize
	Signal   Kind = 8  // C→A agentv1.ExecSignal
	Exit     Kind = 9  // A→C agentv1.ExecExit
	Error    Kind = 10 // A→C agentv1.ExecError
	Ack      Kind = 11 // both: 8 bytes little-endian, bytes received so far
)

// MaxPayload bounds a frame's payload in bytes.
const MaxPayload = 128 << 10

// MaxStart bounds the payload of a Start frame: arguments and environment.
const MaxStart = 4 << 20

// Unacked bounds the bytes that either side keeps for the other; at this many
// it stops reading its source. The receiver acknowledges at least every AckEvery.
const (
	Unacked  = 1 << 20
	AckEvery = 512 << 10
)

// HeaderSize is the length of a frame header in bytes.
const HeaderSize = 5

// ErrFrame is a frame that the protocol does not allow.
var ErrFrame = errors.New("malformed frame")

// ErrPaused is what dialling a paused guest ends with: its processes stand still with
// it, and a client of one tries again for as long as it likes.
var ErrPaused = errors.New("the VM is paused")

// limit is the bound of a frame by its kind; 0 for a kind that does not exist.
func limit(k Kind) int {
	switch k {
	case Start:
		return MaxStart
	case Stdin, Stdout, Stderr:
		return MaxPayload
	case Started, Resize, Signal, Exit, Error, Ack:
		return 4 << 10
	case StdinEOF:
		return 0
	}
	return -1
}

// Append encodes a frame to b.
func Append(b []byte, k Kind, payload []byte) []byte {
	b = append(b, byte(k))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// Reader reads frames, each within its bound.
type Reader struct {
	r      io.Reader
	header [HeaderSize]byte
	buf    []byte
}

// NewReader reads from r; wrap r in a bufio.Reader of 64 KiB or more.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame. The payload is valid until the call after. The
// error is io.EOF at a clean end, between frames.
func (r *Reader) Next() (Kind, []byte, error) {
	if _, err := io.ReadFull(r.r, r.header[:]); err != nil {
		return 0, nil, err
	}
	kind := Kind(r.header[0])
	size := binary.LittleEndian.Uint32(r.header[1:])
	bound := limit(kind)
	if bound < 0 || size > uint32(bound) {
		return 0, nil, fmt.Errorf("%w: kind %d, %d bytes", ErrFrame, kind, size)
	}
	if int(size) > cap(r.buf) {
		r.buf = make([]byte, size)
	}
	payload := r.buf[:size]
	if _, err := io.ReadFull(r.r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind, payload, nil
}

// AppendAck encodes an Ack frame for a count of bytes.
func AppendAck(b []byte, received uint64) []byte {
	var payload [8]byte
	binary.LittleEndian.PutUint64(payload[:], received)
	return Append(b, Ack, payload[:])
}

// ParseAck decodes the payload of an Ack frame.
func ParseAck(payload []byte) (uint64, error) {
	if len(payload) != 8 {
		return 0, fmt.Errorf("%w: ack of %d bytes", ErrFrame, len(payload))
	}
	return binary.LittleEndian.Uint64(payload), nil
}
