package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/cli/safe"
	"github.com/banger-dev/banger/internal/layout"
)

const (
	// maxHistory bounds what is shown of one log, in bytes: its end.
	maxHistory = 16 << 20
	// maxLine bounds one line of a guest that never ends one.
	maxLine = 64 << 10
	// stateCheck is how often a followed VM is asked whether it still runs,
	// for ends that leave no mark in its directory.
	stateCheck = 2 * time.Second
)

// logFile is one log, read to its end and then further.
type logFile struct {
	path, source string
	show         func(source, line string) error
	file         *os.File
	partial      []byte
}

func (l *logFile) close() {
	if l.file != nil {
		l.file.Close()
	}
}

// history shows what is there: the last tail lines (all if negative), with boot
// only what follows the last start.
func (l *logFile) history(tail int, since time.Time) error {
	old, err := readEnd(l.path + ".old")
	if err != nil {
		return err
	}
	if err := l.open(); err != nil || l.file == nil {
		return err
	}
	if info, err := l.file.Stat(); err == nil && info.Size() > maxHistory {
		l.file.Seek(-maxHistory, io.SeekEnd)
	}
	data, err := io.ReadAll(io.LimitReader(l.file, maxHistory))
	if err != nil {
		return err
	}
	data = sinceBoot(append(old, data...), since)
	whole := bytes.LastIndexByte(data, '\n') + 1
	l.partial = bytes.Clone(data[whole:])
	lines := bytes.SplitAfter(data[:whole], []byte("\n"))
	lines = lines[:len(lines)-1]
	if tail >= 0 && len(lines) > tail {
		lines = lines[len(lines)-tail:]
	}
	for _, line := range lines {
		if err := l.show(l.source, string(bytes.TrimSuffix(line, []byte("\n")))); err != nil {
			return err
		}
	}
	return nil
}

// open opens the log; one that is not there yet is no error.
func (l *logFile) open() error {
	file, err := os.Open(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	l.file = file
	return err
}

// readEnd reads at most the last maxHistory bytes of a file that may not exist.
func readEnd(path string) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > maxHistory {
		file.Seek(-maxHistory, io.SeekEnd)
	}
	return io.ReadAll(io.LimitReader(file, maxHistory))
}

// lastBoot is the time in the last boot mark of a console log, or zero.
func lastBoot(console string) (time.Time, error) {
	for _, path := range []string{console, console + ".old"} {
		data, err := readEnd(path)
		if err != nil {
			return time.Time{}, err
		}
		at := bytes.LastIndex(data, []byte(layout.BootMark))
		if at < 0 {
			continue
		}
		text, _, _ := strings.Cut(string(data[at+len(layout.BootMark):]), "\n")
		when, err := time.Parse(time.RFC3339, strings.TrimSpace(strings.TrimRight(text, "= \r")))
		if err == nil {
			return when, nil
		}
	}
	return time.Time{}, nil
}

// supervisorLead is how long before the boot mark a supervisor starts to log.
const supervisorLead = 5 * time.Second

// sinceBoot cuts a log at the last start: a console at its mark, a supervisor's
// log at the first line of that time. A zero since cuts nothing.
func sinceBoot(data []byte, since time.Time) []byte {
	if since.IsZero() {
		return data
	}
	if at := bytes.LastIndex(data, []byte(layout.BootMark)); at >= 0 {
		return data[at:]
	}
	for rest := data; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		if field, ok := bytes.CutPrefix(line, []byte("time=")); ok {
			stamp, _, _ := bytes.Cut(field, []byte(" "))
			if at, err := time.Parse(time.RFC3339Nano, string(stamp)); err == nil && at.After(since.Add(-supervisorLead)) {
				return rest
			}
		}
		rest = after
	}
	return nil
}

// more shows what has been added, also across a rotation.
func (l *logFile) more() error {
	if l.file == nil {
		if err := l.open(); err != nil || l.file == nil {
			return err
		}
	}
	for {
		rotated := l.rotated()
		if err := l.read(); err != nil || !rotated {
			return err
		}
		l.file.Close()
		l.file = nil
		if err := l.open(); err != nil || l.file == nil {
			return err
		}
	}
}

// rotated reports whether the path is another file by now.
func (l *logFile) rotated() bool {
	was, err := l.file.Stat()
	if err != nil {
		return false
	}
	is, err := os.Stat(l.path)
	return err == nil && !os.SameFile(was, is)
}

func (l *logFile) read() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.file.Read(buf)
		l.partial = append(l.partial, buf[:n]...)
		if err := l.lines(); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lines shows the whole lines of partial, and one that is too long.
func (l *logFile) lines() error {
	for {
		at := bytes.IndexByte(l.partial, '\n')
		if at < 0 && len(l.partial) < maxLine {
			return nil
		}
		line, rest := l.partial, []byte(nil)
		if at >= 0 {
			line, rest = l.partial[:at], l.partial[at+1:]
		}
		if err := l.show(l.source, string(line)); err != nil {
			return err
		}
		l.partial = rest
	}
}

// finish shows a last line that was never ended.
func (l *logFile) finish() error {
	if len(l.partial) == 0 {
		return nil
	}
	return l.show(l.source, string(l.partial))
}

// logViewer writes lines of logs in the form that was asked for.
type logViewer struct {
	app     *App
	collect bool
	lines   []logLine
}

// logLine is a line of a log in JSON.
type logLine struct {
	Source string `json:"source"`
	Line   string `json:"line"`
}

func (v *logViewer) line(source, text string) error {
	a := v.app
	if a.json {
		entry := logLine{source, strings.TrimSuffix(text, "\r")}
		if v.collect {
			v.lines = append(v.lines, entry)
			return nil
		}
		return json.NewEncoder(a.IO.Out).Encode(entry)
	}
	if a.IO.OutTTY {
		text = strings.TrimSuffix(safe.Text(text+"\n"), "\n")
	}
	if source != "console" {
		text = "[" + source + "] " + text
	}
	_, err := fmt.Fprintln(a.IO.Out, text)
	return err
}

// end prints what was collected.
func (v *logViewer) end() error {
	if !v.app.json || !v.collect {
		return nil
	}
	return v.app.printJSON(append([]logLine{}, v.lines...))
}

// followLogs shows what is added until alive says no, the VM's end is recorded,
// or ctx ends.
func followLogs(ctx context.Context, dir layout.Instance, logs []*logFile, alive func() bool) error {
	changed, closeWatch, err := watchDir(dir.Dir())
	if err != nil {
		return banger.Errorf(banger.CodeFailed, "watch %s: %w", dir.Dir(), err)
	}
	defer closeWatch()
	check := time.NewTicker(stateCheck)
	defer check.Stop()
	for running := alive(); ; {
		for _, log := range logs {
			if err := log.more(); err != nil {
				return err
			}
		}
		if !running {
			return nil
		}
		select {
		case ended, ok := <-changed:
			running = ok && !ended
		case <-check.C:
			running = alive()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// watchDir tells of changes in an instance directory: true when the record of
// the VM's end has been written. The channel is closed when the directory goes.
func watchDir(dir string) (<-chan bool, func(), error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fd), "inotify")
	const mask = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		file.Close()
		return nil, nil, err
	}
	changed, done := make(chan bool), make(chan struct{})
	go func() {
		defer close(changed)
		readEvents(file, changed, done)
	}()
	return changed, func() {
		close(done)
		file.Close()
		for range changed { // until the reader has ended
		}
	}, nil
}
