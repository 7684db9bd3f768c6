package guestlink

import "time"

// maxStale is how many bytes one ring discards at most. Up to 32 MiB of an
// earlier session can be in flight from a guest.
const maxStale = 256 << 20

// limits bound a session with a guest. They are values and not constants so
// that tests can reach them quickly.
type limits struct {
	// firstRing and lastRing bound the wait for an answer to a doorbell, which
	// doubles from ring to ring.
	firstRing, lastRing time.Duration
	// writeStall is how long the guest may take nothing before the session is
	// ended.
	writeStall time.Duration
	// streams is how many may be open at once.
	streams int
	// window is the bytes that a guest may have sent on one stream unread.
	window uint32
	// control is the rate of frames that carry no data: a legitimate one stands
	// for half a window taken or a stream opened or closed.
	control bucketSize
	// pings: an agent sends one at the start of a session and answers ours.
	pings bucketSize
	// stray is the bytes for streams that the host has closed: each may have a
	// window of them on the way.
	stray bucketSize
}

func defaultLimits() limits {
	return limits{
		firstRing:  250 * time.Millisecond,
		lastRing:   4 * time.Second,
		writeStall: 20 * time.Second,
		streams:    512,
		window:     1 << 20,
		control:    bucketSize{burst: 20_000, perSecond: 20_000},
		pings:      bucketSize{burst: 16, perSecond: 1},
		stray:      bucketSize{burst: 64 << 20, perSecond: 16 << 20},
	}
}

// bucketSize is a budget: burst units at once, and perSecond more each second.
type bucketSize struct{ burst, perSecond float64 }

// bucket spends a budget.
type bucket struct {
	size bucketSize
	left float64
	at   time.Time
}

func newBucket(size bucketSize, now time.Time) bucket {
	return bucket{size: size, left: size.burst, at: now}
}

// take spends n units, and reports whether they were there.
func (b *bucket) take(n float64, now time.Time) bool {
	b.left = min(b.size.burst, b.left+now.Sub(b.at).Seconds()*b.size.perSecond)
	b.at = now
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}
