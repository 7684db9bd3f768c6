// Package allowance rations what a guest can make its host do: so much at once,
// and so much more each second.
package allowance

import "time"

// Size is a ration: Burst units at once, and PerSecond more each second.
type Size struct{ Burst, PerSecond float64 }

// Bucket is what is left of a ration. It belongs to one goroutine, or to who
// holds the lock beside it.
type Bucket struct {
	size Size
	left float64
	at   time.Time
}

// New returns a full bucket.
func New(size Size, now time.Time) Bucket {
	return Bucket{size: size, left: size.Burst, at: now}
}

// Take spends n units, and reports whether they were there.
func (b *Bucket) Take(n float64, now time.Time) bool {
	b.left = min(b.size.Burst, b.left+now.Sub(b.at).Seconds()*b.size.PerSecond)
	b.at = now
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}
