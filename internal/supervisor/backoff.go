package supervisor

import (
	"context"
	"time"
)

// Pauses before something that failed is tried again.
const (
	consoleRetry = 500 * time.Millisecond
	networkRetry = 50 * time.Millisecond
	linkRetry    = 50 * time.Millisecond
	acceptRetry  = 5 * time.Millisecond
	maxRetry     = time.Second
)

// backoff waits longer each time, up to maxRetry.
type backoff struct{ next, least time.Duration }

func newBackoff(least time.Duration) *backoff { return &backoff{least, least} }

// reset starts over after a success.
func (b *backoff) reset() { b.next = b.least }

// wait pauses and reports whether to go on: false when ctx has ended.
func (b *backoff) wait(ctx context.Context) bool {
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	b.next = min(2*b.next, maxRetry)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
