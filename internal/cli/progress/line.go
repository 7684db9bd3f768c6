package progress

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// describe is a stage in progress, on one line.
func (s *stage) describe(now time.Time) string {
	parts := []string{fmt.Sprintf("%-8s", s.Stage)}
	if amount := s.amount(now); amount != "" {
		parts = append(parts, amount)
	}
	if s.Detail != "" {
		parts = append(parts, safe.Line(s.Detail))
	}
	return strings.Join(append(parts, "("+seconds(now.Sub(s.began))+")"), " ")
}

// amount is "12.0M of 270.0M, 8.1M/s, 32 s left", as far as it is known.
func (s *stage) amount(now time.Time) string {
	if s.Done == 0 && s.Total == 0 {
		return ""
	}
	text := banger.FormatSize(s.Done)
	if s.Total > 0 {
		text += " of " + banger.FormatSize(s.Total)
	}
	rate := s.rate(now)
	if rate <= 0 {
		return text
	}
	text += ", " + banger.FormatSize(rate) + "/s"
	if s.Total > s.Done {
		left := time.Duration(float64(s.Total-s.Done) / float64(rate) * float64(time.Second))
		text += ", " + seconds(left.Round(time.Second)) + " left"
	}
	return text
}

// rate is bytes per second since the first report.
func (s *stage) rate(now time.Time) int64 {
	elapsed := now.Sub(s.began).Seconds()
	if elapsed < 0.2 {
		return 0
	}
	return int64(float64(s.Done-s.firstDone) / elapsed)
}

// seconds writes a duration the way people say it.
func seconds(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

const (
	barWidth = 20
	// minWidth is what a terminal of unknown width is taken for.
	minWidth = 80
)

// bar is "[#####·····]" for a stage whose size is known.
func (s *stage) bar() string {
	if s.Total <= 0 {
		return ""
	}
	full := int(min(max(s.Done, 0), s.Total) * barWidth / s.Total)
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] "
}

// draw writes the live line over the one before.
func (r *Reporter) draw() {
	s := r.current()
	now := r.now()
	if now.Sub(s.began) < 2*redraw {
		return // over before it could be read
	}
	spinner := [...]string{"|", "/", "-", `\`}
	text := spinner[now.UnixMilli()/redraw.Milliseconds()%4] + " " + s.bar() + s.describe(now)
	width := r.width()
	if width <= 0 {
		width = minWidth
	}
	fmt.Fprint(r.w, "\r\x1b[K"+cut(text, width-1))
	r.drawn, r.spoke = true, now
}

// clear takes the live line away.
func (r *Reporter) clear() {
	if r.drawn {
		fmt.Fprint(r.w, "\r\x1b[K")
		r.drawn = false
	}
}

// cut shortens text to n characters.
func cut(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return string([]rune(text)[:max(n, 0)])
}
