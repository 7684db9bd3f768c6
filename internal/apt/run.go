package apt

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
)

// Bounds on what is kept of a command's output, in bytes.
const (
	maxStdout = 256 << 10
	maxStderr = 64 << 10
)

// quitTime is how long apt has to leave after it was asked to.
const quitTime = 5 * time.Second

type output struct{ stdout, stderr string }

// run runs one of apt's programs in the directory of packages. With report, it
// passes on what apt says of its transfers.
func (a *Archive) run(ctx context.Context, report Progress, program string, args ...string) (output, error) {
	options := []string{"-q", "-c", a.dir.Config()}
	cmd := exec.CommandContext(ctx, program)
	done := func() {}
	if report != nil {
		status, finish, err := follow(report)
		if err != nil {
			return output{}, err
		}
		done = finish
		cmd.ExtraFiles = []*os.File{status} // fd 3
		options = append(options, "-o", "APT::Status-Fd=3")
	}
	stdout, stderr := &tail{limit: maxStdout}, &tail{limit: maxStderr}
	cmd.Args = append(append([]string{program}, options...), args...)
	cmd.Dir = a.debs
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// The whole group is asked to leave, apt's helpers with it.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = quitTime
	// Two apts in one directory would fail at each other's locks, so it must not
	// outlive us. The signal is tied to the thread that starts it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	done()
	if ctx.Err() != nil {
		return output{}, ctx.Err()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return output{}, banger.Errorf(banger.CodeUnavailable, "%s is not installed", program).
			WithHint("install apt, Debian's package tool")
	}
	return output{stdout.String(), stderr.String()}, err
}

// follow returns the writing end of a pipe for apt's status, and a function
// that closes it and waits until everything in it was reported.
func follow(report Progress) (*os.File, func(), error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(reader)
		for lines.Scan() {
			if what, fraction, ok := parseStatus(lines.Text()); ok {
				report(what, fraction)
			}
		}
		// A line beyond the scanner's bound ends the reports; apt must not
		// block on a full pipe for that.
		_, _ = io.Copy(io.Discard, reader)
	}()
	return writer, func() {
		writer.Close()
		// A helper of apt that outlives it would keep the pipe open.
		_ = reader.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		reader.Close()
	}, nil
}

// parseStatus reads a line such as "dlstatus:3:41.5:Retrieving file 3 of 9".
func parseStatus(line string) (what string, fraction float64, ok bool) {
	fields := strings.SplitN(line, ":", 4)
	if len(fields) != 4 || fields[0] != "dlstatus" {
		return "", 0, false
	}
	percent, err := strconv.ParseFloat(fields[2], 64)
	if err != nil || !(percent >= 0 && percent <= 100) {
		return "", 0, false
	}
	return fields[3], percent / 100, true
}

// isExit reports whether err is a program's own verdict.
func isExit(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit)
}

// isFull reports whether apt ran out of space.
func isFull(stderr string) bool {
	return strings.Contains(stderr, "No space left on device") || strings.Contains(stderr, "enough free space")
}

// complaint returns the first error in apt's words, else its first warning that
// matters, else "".
func complaint(stderr string) string {
	first := func(prefix string) string {
		for line := range strings.Lines(stderr) {
			line = strings.TrimSpace(line)
			// Of no interest: apt may not drop root's rights in a private directory.
			if text, ok := strings.CutPrefix(line, prefix); ok && !strings.Contains(text, "unsandboxed") {
				return text
			}
		}
		return ""
	}
	if text := first("E: "); text != "" {
		return text
	}
	return first("W: ")
}

// failure is the error of a program that ran and failed.
func (a *Archive) failure(what, stderr string) error {
	text := complaint(stderr)
	if text == "" {
		text = strings.TrimSpace(stderr)
	}
	if text == "" {
		text = "it failed without a word"
	}
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	e := banger.Errorf(banger.CodeUnavailable, "%s (Debian %s): %s", what, a.suite, text)
	if isFull(stderr) {
		return e.WithHint("df -h %s, and free some space", a.dir.Dir())
	}
	return e.WithHint("check the network and the host's apt sources, then run the command again")
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	data  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - t.limit; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.data) }
