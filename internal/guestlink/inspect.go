package guestlink

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/banger-dev/banger/internal/allowance"
)

// The yamux frame header: version 1, type 1, flags 2, stream 4, length 4, all
// big-endian (hashicorp/yamux spec.md).
const (
	frameHeader = 12

	frameData   = 0
	frameWindow = 1
	framePing   = 2
	frameGoAway = 3

	flagSYN = 1
)

// violation is something that a well-behaved agent never sends.
type violation string

func (v violation) Error() string { return "guest link: the guest " + string(v) }

// inspector passes a guest's bytes on to yamux and ends the session where yamux
// itself would spend memory, goroutines or unbounded time on them.
type inspector struct {
	r      io.Reader
	window uint32
	// open reports whether the host has this stream open.
	open func(id uint32) bool
	now  func() time.Time

	header [frameHeader]byte
	have   int    // bytes of header so far
	body   uint32 // bytes of the present frame still to come

	control, pings, stray allowance.Bucket
	// broken is the first violation; there is no way back from it.
	broken error
}

func newInspector(r io.Reader, lim limits, open func(id uint32) bool, now func() time.Time) *inspector {
	at := now()
	return &inspector{
		r: r, window: lim.window, open: open, now: now,
		control: allowance.New(lim.control, at),
		pings:   allowance.New(lim.pings, at),
		stray:   allowance.New(lim.stray, at),
	}
}

// Read implements io.Reader. Bytes of an offending frame are not passed on.
func (i *inspector) Read(p []byte) (int, error) {
	if i.broken != nil {
		return 0, i.broken
	}
	n, err := i.r.Read(p)
	if i.broken = i.see(p[:n]); i.broken != nil {
		return 0, i.broken
	}
	return n, err
}

// see follows the frames through p.
func (i *inspector) see(p []byte) error {
	for len(p) > 0 {
		if i.body > 0 {
			skip := min(uint32(len(p)), i.body)
			i.body -= skip
			p = p[skip:]
			continue
		}
		n := copy(i.header[i.have:], p)
		i.have += n
		p = p[n:]
		if i.have < frameHeader {
			return nil
		}
		i.have = 0
		if err := i.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame judges a whole header.
func (i *inspector) frame() error {
	h := &i.header
	if h[0] != 0 || h[1] > frameGoAway {
		return violation(fmt.Sprintf("sent a frame of version %d, type %d", h[0], h[1]))
	}
	flags, id := binary.BigEndian.Uint16(h[2:]), binary.BigEndian.Uint32(h[4:])
	length := binary.BigEndian.Uint32(h[8:])
	switch h[1] {
	case framePing:
		if !i.pings.Take(1, i.now()) {
			return violation("sent too many pings")
		}
		return nil
	case frameGoAway:
		return nil
	}
	if flags&flagSYN != 0 {
		return violation("opened a stream")
	}
	if h[1] == frameData && length > 0 {
		return i.data(id, length)
	}
	return i.count()
}

// data judges a frame with length bytes for stream id.
func (i *inspector) data(id, length uint32) error {
	if length > i.window {
		return violation(fmt.Sprintf("sent a frame of %d bytes, at most %d", length, i.window))
	}
	i.body = length
	if i.open(id) {
		return nil
	}
	if !i.stray.Take(float64(length), i.now()) {
		return violation("sent too many bytes on closed streams")
	}
	return i.count()
}

func (i *inspector) count() error {
	if !i.control.Take(1, i.now()) {
		return violation("sent too many control frames")
	}
	return nil
}
