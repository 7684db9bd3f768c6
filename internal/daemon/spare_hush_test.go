package daemon

import (
	"testing"
	"time"
)

// While VMs are started from spares one after another none is made.
func TestNoSpareIsMadeBesideAStart(t *testing.T) {
	now := time.Now()
	s := &spares{}
	order := func(ago time.Duration, ready ...*spare) []*pool {
		return []*pool{{arrivals: []time.Time{now.Add(-ago)}, ready: ready}, {ready: []*spare{{}}}}
	}
	for _, c := range []struct {
		order []*pool
		want  time.Duration
	}{
		{nil, 0},
		{order(0), 0},
		{order(0, &spare{}), spareHush},
		{order(spareHush/4, &spare{}), spareHush * 3 / 4},
		{order(spareHush, &spare{}), 0},
		{order(time.Hour, &spare{}), 0},
	} {
		if got := s.hush(c.order, now); got != c.want {
			t.Errorf("%d pools: %v, want %v", len(c.order), got, c.want)
		}
	}
}
