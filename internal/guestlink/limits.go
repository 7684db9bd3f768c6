package guestlink

import (
	"time"

	"github.com/banger-dev/banger/internal/allowance"
)

// limits bound a session with a guest. They are values and not constants so
// that tests can reach them quickly.
type limits struct {
	// firstRing and lastRing bound the wait for an answer to a doorbell, which
	// doubles from ring to ring.
	firstRing, lastRing time.Duration
	// kept is how long the guest may take to answer over a connection that an
	// earlier session used, before another one is made: five rings.
	kept time.Duration
	// stale is how many bytes one ring discards at most. Up to 32 MiB of an
	// earlier session can be in flight from a guest.
	stale int64
	// writeStall is how long the guest may take nothing before the session is
	// ended.
	writeStall time.Duration
	// streams is how many may be open at once.
	streams int
	// window is the bytes that a guest may have sent on one stream unread.
	window uint32
	// control is the rate of frames that carry no data: a legitimate one stands
	// for half a window taken or a stream opened or closed.
	control allowance.Size
	// pings: an agent sends one at the start of a session and answers ours.
	pings allowance.Size
	// stray is the bytes for streams that the host has closed: each may have a
	// window of them on the way.
	stray allowance.Size
}

func defaultLimits() limits {
	return limits{
		firstRing:  250 * time.Millisecond,
		lastRing:   4 * time.Second,
		kept:       8 * time.Second,
		stale:      256 << 20,
		writeStall: 20 * time.Second,
		streams:    512,
		window:     1 << 20,
		control:    allowance.Size{Burst: 20_000, PerSecond: 20_000},
		pings:      allowance.Size{Burst: 16, PerSecond: 1},
		stray:      allowance.Size{Burst: 64 << 20, PerSecond: 16 << 20},
	}
}
