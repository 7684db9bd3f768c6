package cli

import (
	"math"
	"strconv"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
)

// spanNone is the word for no time at all.
const spanNone = "none"

// parseSpan reads a time as 90s, 2h30m, 7d or 1d12h, for flag. It is more than
// nothing, and whole milliseconds. A flag that was not given ("") is 0.
func parseSpan(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	wrong := banger.Errorf(banger.CodeUsage, "%s %q is not a time such as 90s, 2h or 7d", flag, text).WithHint("%s 2h", flag)
	var span time.Duration
	if days, rest, ok := strings.Cut(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 31)
		if err != nil || n > math.MaxInt64/uint64(24*time.Hour) {
			return 0, wrong
		}
		span, text = time.Duration(n)*24*time.Hour, rest
	}
	if text != "" {
		more, err := time.ParseDuration(text)
		if err != nil || more < 0 || more > math.MaxInt64-span {
			return 0, wrong
		}
		span += more
	}
	if span < time.Millisecond {
		return 0, wrong
	}
	return span.Truncate(time.Millisecond), nil
}

// formatSpan is a time the way parseSpan reads it, to the second.
func formatSpan(d time.Duration) string {
	d = d.Round(time.Second)
	days := d / (24 * time.Hour)
	d -= days * 24 * time.Hour
	text := ""
	if days > 0 {
		text = strconv.FormatInt(int64(days), 10) + "d"
	}
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / unit.size; n > 0 {
			text += strconv.FormatInt(int64(n), 10) + unit.name
			d -= n * unit.size
		}
	}
	if text == "" {
		return "0s"
	}
	return text
}
