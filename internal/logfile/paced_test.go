package logfile

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestPaced(t *testing.T) {
	var out bytes.Buffer
	p := NewPaced(&out)
	now := p.at
	p.now = func() time.Time { return now }
	for range burst + 7 {
		if n, err := p.Write([]byte("line\n")); n != 5 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := strings.Count(out.String(), "line\n"); got != burst {
		t.Errorf("%d lines, want %d", got, burst)
	}
	out.Reset()
	now = now.Add(refill)
	for range 2 {
		p.Write([]byte("later\n"))
	}
	if got, want := out.String(), "(7 lines left out: they came too fast)\nlater\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	now = now.Add(time.Hour)
	p.Write([]byte("last\n"))
	if p.left != burst-1 {
		t.Errorf("%d lines left after an hour, want %d", p.left, burst-1)
	}
}
