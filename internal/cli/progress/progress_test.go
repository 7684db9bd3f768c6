package progress

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	banger "github.com/banger-dev/banger"
)

// show runs work in a bubble whose clock is its own, and returns what it wrote.
func show(t *testing.T, form Form, label string, work func(*Reporter)) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		r := New(&out, form, label, func() int { return 60 })
		work(r)
		synctest.Wait()
		r.Close()
	})
	return out.String()
}

func TestPlain(t *testing.T) {
	got := show(t, Plain, "", func(r *Reporter) {
		r.Message("spec: x")
		r.Update(banger.Progress{Stage: "kernel", Finished: true, Elapsed: time.Millisecond})
		r.Update(banger.Progress{Stage: "image", Detail: "fetching\x1b[2J", Done: 1 << 20, Total: 100 << 20})
		time.Sleep(2100 * time.Millisecond)
		r.Update(banger.Progress{Stage: "image", Done: 21 << 20, Total: 100 << 20})
		time.Sleep(2100 * time.Millisecond)
		r.Update(banger.Progress{Stage: "image", Finished: true, Elapsed: 4200 * time.Millisecond})
	})
	want := "spec: x\n" +
		"image    1M of 100M fetching\\x1b[2J (2.0 s)\n" +
		"image    21M of 100M, 5M/s, 16 s left fetching\\x1b[2J (4.0 s)\n" +
		"image    4.2 s\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// Nothing is silent for more than two seconds, whatever is or is not reported.
func TestHeartbeat(t *testing.T) {
	for _, form := range []Form{Plain, JSON, Live} {
		synctest.Test(t, func(t *testing.T) {
			out := &stamped{last: time.Now()}
			r := New(out, form, "", func() int { return 0 })
			time.Sleep(7 * time.Second)
			r.Update(banger.Progress{Stage: "boot"})
			time.Sleep(7 * time.Second)
			r.Close()
			if out.longest > 2*time.Second || out.writes < 6 {
				t.Errorf("%s: silent for %s, %d writes", form, out.longest, out.writes)
			}
		})
	}
}

type stamped struct {
	last    time.Time
	longest time.Duration
	writes  int
}

func (s *stamped) Write(p []byte) (int, error) {
	s.longest = max(s.longest, time.Since(s.last))
	s.last = time.Now()
	s.writes++
	return len(p), nil
}

func TestLive(t *testing.T) {
	got := show(t, Live, "", func(r *Reporter) {
		r.Update(banger.Progress{Stage: "image", Detail: strings.Repeat("long ", 20), Done: 50, Total: 100})
		time.Sleep(time.Second)
		r.Message("a message")
	})
	if !strings.Contains(got, "[##########..........] image    50B of 100B") {
		t.Errorf("no bar in %q", got)
	}
	// The message stands alone on its line, and nothing is left at the end.
	if !strings.Contains(got, "\r\x1b[Ka message\n") || strings.HasSuffix(got, "s)") {
		t.Errorf("%q", got)
	}
	for _, line := range strings.Split(got, "\r\x1b[K") {
		if len([]rune(strings.TrimSuffix(line, "\n"))) > 59 {
			t.Errorf("%q is wider than the terminal", line)
		}
	}
}

func TestFastWorkDrawsNothing(t *testing.T) {
	got := show(t, Live, "", func(r *Reporter) {
		r.Update(banger.Progress{Stage: "boot"})
		time.Sleep(200 * time.Millisecond)
	})
	if got != "" {
		t.Errorf("%q", got)
	}
}

func TestJSON(t *testing.T) {
	got := show(t, JSON, "dev", func(r *Reporter) {
		r.Message("not for programs")
		r.Event(map[string]int{"spec": 1})
		r.Update(banger.Progress{Stage: "boot", Done: 1, Total: 2})
		r.Update(banger.Progress{Stage: "boot", Done: 2, Total: 2})
		r.Update(banger.Progress{Stage: "boot", Finished: true, Elapsed: time.Second})
	})
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if len(lines) != 3 {
		t.Fatalf("lines: %q", lines)
	}
	var last report
	if err := json.Unmarshal([]byte(lines[2]), &last); err != nil || !last.Finished || last.ElapsedMS != 1000 || last.Label != "dev" {
		t.Errorf("%s: %v", lines[2], err)
	}
}

func TestSilent(t *testing.T) {
	if got := show(t, Silent, "", func(r *Reporter) { r.Message("x"); r.Update(banger.Progress{Stage: "boot"}); time.Sleep(time.Minute) }); got != "" {
		t.Errorf("%q", got)
	}
}
