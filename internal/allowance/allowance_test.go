package allowance

import (
	"testing"
	"time"
)

func TestTake(t *testing.T) {
	now := time.Unix(1000, 0)
	b := New(Size{Burst: 2, PerSecond: 1}, now)
	for n, want := range []bool{true, true, false} {
		if got := b.Take(1, now); got != want {
			t.Errorf("unit %d: %v", n, got)
		}
	}
	if b.Take(1, now.Add(500*time.Millisecond)) {
		t.Error("half a unit was taken for one")
	}
	if now = now.Add(time.Hour); !b.Take(2, now) || b.Take(1, now) {
		t.Error("after a rest there is one burst, no more")
	}
}
