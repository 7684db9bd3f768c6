package guestexec

import (
	"context"
	"errors"
	"math"
	"time"
)

// CodeTimeOver is the exit code of a process whose time was over.
const CodeTimeOver = 124

// overtime is how much longer than TimeLimit the guest may take to say that it has
// ended the process: it has 5 s for that itself, and is slow under load.
const overtime = 30 * time.Second

// errTimeOver ends the sessions with a guest that does not end a process in time.
var errTimeOver = errors.New("the guest does not end the process in time")

// clock bounds a run whose process has a TimeLimit, whatever its guest says. It runs
// from the first Started on, but not while the guest is paused, as the guest's own does.
// It belongs to the goroutine of loop.
type clock struct {
	left  time.Duration // 0: no bound
	over  context.CancelCauseFunc
	timer *time.Timer // nil while it stands
	began time.Time
}

func newClock(limit time.Duration, over context.CancelCauseFunc) *clock {
	if limit <= 0 {
		return &clock{}
	}
	return &clock{left: min(limit, math.MaxInt64-overtime) + overtime, over: over}
}

// run has it go on.
func (c *clock) run() {
	if c.left > 0 && c.timer == nil {
		c.began = time.Now()
		c.timer = time.AfterFunc(c.left, func() { c.over(errTimeOver) })
	}
}

// stand has it stand still; it reports whether it ran.
func (c *clock) stand() bool {
	if c.timer == nil {
		return false
	}
	c.timer.Stop()
	c.timer = nil
	c.spend(time.Since(c.began))
	return true
}

// spend takes time from what is left.
func (c *clock) spend(d time.Duration) {
	if c.left > 0 {
		c.left = max(c.left-d, 1)
	}
}

// timeLimitMs is a limit in whole milliseconds, at least one if there is a limit.
func timeLimitMs(limit time.Duration) int64 {
	if limit <= 0 {
		return 0
	}
	return max(limit.Milliseconds(), 1)
}
