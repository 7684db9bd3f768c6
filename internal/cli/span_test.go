package cli

import (
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
)

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "90s": 90 * time.Second, "2h30m": 150 * time.Minute, "7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "1500us": time.Millisecond,
	} {
		if got, err := parseSpan("--ttl", text); err != nil || got != want {
			t.Errorf("%q is %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"0", "5", "0s", "-1h", "1us", "d", "-1d", "1d-12h", "1d 2h", "1dd", "2h1d", "99999999999999999999d", "106751d24h", "4294967296d", "none", "h"} {
		_, err := parseSpan("--ttl", text)
		if banger.CodeOf(err) != banger.CodeUsage || !strings.Contains(err.Error(), "try: --ttl 2h") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for want, span := range map[string]time.Duration{
		"0s": 0, "1m30s": 90 * time.Second, "2d1h": 49 * time.Hour, "1s": 1400 * time.Millisecond, "7d": 168 * time.Hour,
	} {
		if got := formatSpan(span); got != want {
			t.Errorf("%d is %q, want %q", span, got, want)
		}
	}
}

// FuzzSpan: what is printed is read again as what it was.
func FuzzSpan(f *testing.F) {
	for _, seed := range []string{"90s", "7d", "1d12h", "2562047h", "1.5h", "9d9"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		span, err := parseSpan("--ttl", text)
		if err != nil || text == "" {
			return
		}
		if span <= 0 {
			t.Fatalf("%q is %d", text, span)
		}
		if again, err := parseSpan("--ttl", formatSpan(span)); span >= time.Second && (err != nil || again != span.Round(time.Second)) {
			t.Fatalf("%q is %s, then %s, %v", text, span, again, err)
		}
	})
}
