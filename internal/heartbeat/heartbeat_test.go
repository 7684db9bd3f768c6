package heartbeat

import (
	"testing"
	"testing/synctest"
	"time"

	banger "github.com/banger-dev/banger"
)

func TestNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []banger.Progress
		r := Start("kernel", func(p banger.Progress) { got = append(got, p) })
		r.Report(banger.Progress{Detail: "unpacking"})
		time.Sleep(3*Interval + Interval/2)
		r.Finish(true)
		time.Sleep(10 * Interval)
		if len(got) != 5 {
			t.Fatalf("%d messages: %+v", len(got), got)
		}
		if beat := got[3]; beat.Detail != "unpacking" || beat.Elapsed != 3*Interval || beat.Finished {
			t.Errorf("a beat says %+v", beat)
		}
		if last := got[4]; !last.Finished || last.Stage != "kernel" {
			t.Errorf("the last message says %+v", last)
		}
	})
}
