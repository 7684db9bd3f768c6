package daemon

import (
	"testing"
	"time"
)

// While VMs are started one after another no spare is made.
func TestNoSpareIsMadeBesideAStart(t *testing.T) {
	now := time.Now()
	s := &spares{}
	order := func(ago time.Duration) []*pool { return []*pool{{arrivals: []time.Time{now.Add(-ago)}}, {}} }
	for _, c := range []struct {
		order []*pool
		want  time.Duration
	}{
		{nil, 0},
		{order(0), spareHush},
		{order(spareHush / 4), spareHush * 3 / 4},
		{order(spareHush), 0},
		{order(time.Hour), 0},
	} {
		if got := s.hush(c.order, now); got != c.want {
			t.Errorf("%d pools: %v, want %v", len(c.order), got, c.want)
		}
	}
}
