package recipe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
)

const (
	maxLine = 64 << 10
	// keptLines is how much of the output an error may look back on.
	keptLines = 40
)

// output follows what mmdebstrap, apt and dpkg print.
type output struct {
	report func(Status)
	log    *slog.Logger
	now    Status
	// unpacked and configured count packages of the current step, of count.
	unpacked, configured, count int
	// handedOut: the hook that copies new packages out has ended, as the next
	// one has begun.
	handedOut bool
	failures  []string
	tail      []string
}

func newOutput(report func(Status), log *slog.Logger) *output {
	return &output{report: report, log: log}
}

// follow reads to the end.
func (o *output) follow(r io.Reader) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		o.line(printable(lines.Text()))
	}
	// After a line beyond all bounds nothing more is understood, but the build
	// must not block on a full pipe.
	_, _ = io.Copy(io.Discard, r)
}

// printable replaces what would act on a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

func (o *output) line(line string) {
	o.log.Debug("mmdebstrap", "line", line)
	if o.tail = append(o.tail, line); len(o.tail) > keptLines {
		o.tail = o.tail[1:]
	}
	if strings.HasPrefix(line, "E: ") && len(o.failures) < keptLines {
		o.failures = append(o.failures, strings.TrimPrefix(line, "E: "))
	}
	before := o.now
	if step, ok := strings.CutPrefix(line, "I: "); ok {
		o.step(step)
	} else {
		o.detail(line)
	}
	if o.now != before {
		o.report(o.now)
	}
}

// steps are mmdebstrap's own messages that begin a step, and what a person is
// told.
var steps = [...]struct{ prefix, detail string }{
	{"running apt-get update", "fetching package lists"},
	{"downloading packages with apt", "downloading essential packages"},
	{"extracting archives", "unpacking essential packages"},
	{"installing essential packages", "installing essential packages"},
	{"installing remaining packages", "downloading packages"},
	{"running --customize-hook", "finishing the system"},
	{"cleaning package lists", "cleaning up"},
	{"creating tarball", "writing the file system"},
	{"removing tempdir", "removing temporary files"},
}

func (o *output) step(message string) {
	if strings.HasPrefix(message, "running --customize-hook") && strings.Contains(message, customizeScript) {
		o.handedOut = true
	}
	for _, s := range steps {
		if strings.HasPrefix(message, s.prefix) {
			o.now = Status{Detail: s.detail}
			o.unpacked, o.configured = 0, 0
			return
		}
	}
}

var (
	needLine  = regexp.MustCompile(`^Need to get ([0-9.,]+) ([kMG]?B)(?:/[0-9.,]+ [kMG]?B)? of archives`)
	getLine   = regexp.MustCompile(`^Get:\d+ .*\[([0-9.,]+) ([kMG]?B)\]$`)
	newLine   = regexp.MustCompile(`^\d+ upgraded, (\d+) newly installed`)
	unpackSay = regexp.MustCompile(`^Unpacking ([^ ]+) `)
	setupSay  = regexp.MustCompile(`^Setting up ([^ ]+) `)
)

// detail reads the lines of apt and dpkg.
func (o *output) detail(line string) {
	if m := needLine.FindStringSubmatch(line); m != nil {
		o.now.Done, o.now.Total = 0, decimalSize(m[1], m[2])
	} else if m := getLine.FindStringSubmatch(line); m != nil {
		o.now.Done += decimalSize(m[1], m[2])
		if o.now.Total > 0 {
			o.now.Done = min(o.now.Done, o.now.Total)
		}
	} else if m := newLine.FindStringSubmatch(line); m != nil {
		o.count, _ = strconv.Atoi(m[1])
	} else if m := unpackSay.FindStringSubmatch(line); m != nil {
		o.unpacked++
		o.now = Status{Detail: "unpacking " + m[1] + o.of(o.unpacked)}
	} else if m := setupSay.FindStringSubmatch(line); m != nil {
		o.configured++
		o.now = Status{Detail: "setting up " + m[1] + o.of(o.configured)}
	}
}

// of says how far a count is, while it makes sense.
func (o *output) of(n int) string {
	if n > o.count {
		return ""
	}
	return fmt.Sprintf(" (%d of %d)", n, o.count)
}

// decimalSize reads apt's sizes: "1,234" and "kB", in powers of a thousand.
func decimalSize(number, unit string) int64 {
	n, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	if err != nil || n < 0 || n > 1e9 {
		return 0
	}
	switch unit {
	case "kB":
		n *= 1e3
	case "MB":
		n *= 1e6
	case "GB":
		n *= 1e9
	}
	return int64(n)
}

// verdict says how the build ended. A stream that was cut because mmdebstrap
// failed is not the cause, and a mmdebstrap that was killed because the stream
// could not be taken is not either: who complained first in words is.
func (o *output) verdict(h host, exitErr, consumeErr error) error {
	switch {
	case exitErr == nil:
		return o.space(consumeErr)
	case len(o.failures) > 0:
		o.log.Warn("mmdebstrap failed", "error", exitErr, "output", strings.Join(o.tail, "\n"))
		return o.explain(h)
	case consumeErr != nil && !errors.Is(consumeErr, io.ErrUnexpectedEOF):
		return o.space(consumeErr)
	case errors.Is(exitErr, context.Canceled):
		return exitErr
	}
	last := "it printed nothing"
	if n := len(o.tail); n > 0 {
		last = o.tail[n-1]
		o.log.Warn("mmdebstrap failed", "error", exitErr, "output", strings.Join(o.tail, "\n"))
	}
	return banger.Errorf(banger.CodeFailed, "mmdebstrap failed (%v): %s", exitErr, last).WithHint("banger daemon logs")
}

func (o *output) space(err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return banger.Errorf(banger.CodeFailed, "no space left for the image: %w", err).WithHint("free 1G there, and run it again")
	}
	return err
}

// causes are what goes wrong outside, by words in the output. The one without a
// hint is that namespaces are not allowed.
var causes = [...]struct {
	pattern *regexp.Regexp
	code    banger.Code
	hint    string
}{
	{regexp.MustCompile(`No space left on device|enough free space`), banger.CodeFailed,
		"free 2G in /var/tmp, or set TMPDIR to a directory with room that others may enter"},
	{regexp.MustCompile(`NO_PUBKEY|is not signed|signatures couldn't be verified`), banger.CodeUnavailable,
		"apt-get install debian-archive-keyring (as root)"},
	{regexp.MustCompile(`Could not resolve|Temporary failure resolving|Could not connect|Unable to connect|Connection (?:failed|refused|timed out)|Failed to fetch`), banger.CodeUnavailable,
		"look at the network and run it again: what was downloaded is kept"},
	{regexp.MustCompile(`unshare.*(?:failed|not permitted)|newuidmap .*failed|newgidmap .*failed`), banger.CodeUnavailable, ""},
}

// explain makes an error of what mmdebstrap and apt complained of. The first
// complaint is the cause; the others are of those who waited for it.
func (o *output) explain(h host) error {
	err := banger.Errorf(banger.CodeFailed, "mmdebstrap: %s", o.failures[0]).WithHint("banger daemon logs")
	text := strings.Join(append(o.failures, o.tail...), "\n")
	for _, c := range causes {
		if c.pattern.MatchString(text) {
			err.Code, err.Hint = c.code, c.hint
			if c.hint == "" {
				err.Hint = h.allowNamespaces("/proc/sys")
			}
			break
		}
	}
	return err
}
