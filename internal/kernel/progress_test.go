package kernel

import (
	"testing"
	"testing/synctest"
	"time"

	banger "github.com/banger-dev/banger"
)

func TestReporterIsNeverSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []banger.Progress
		r := startReporter(func(p banger.Progress) { got = append(got, p) })
		r.report(banger.Progress{Detail: "unpacking"})
		time.Sleep(3*heartbeat + heartbeat/2)
		r.finish(true)
		time.Sleep(10 * heartbeat)
		if len(got) != 5 {
			t.Fatalf("%d messages: %+v", len(got), got)
		}
		if beat := got[3]; beat.Detail != "unpacking" || beat.Elapsed != 3*heartbeat || beat.Finished {
			t.Errorf("a heartbeat says %+v", beat)
		}
		if last := got[4]; !last.Finished || last.Stage != stage {
			t.Errorf("the last message says %+v", last)
		}
	})
}
