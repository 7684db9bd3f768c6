package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	"github.com/banger-dev/banger/api/client/guestexec"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// Exit codes of run, exec and ssh that are not the guest command's own.
const (
	exitTimeOver      = guestexec.CodeTimeOver
	exitAround        = 125
	exitNotExecutable = 126
	exitNotFound      = 127
)

// exitError ends banger with a code, silently: a guest command's own, or that
// of an error which has been shown already.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// withCode is the error of a command whose code was all there was to say.
func withCode(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code}
}

// guestCommand marks the commands whose exit code is the guest's.
const guestCommand = "guest"

func isGuestCommand(cmd *cobra.Command) bool {
	return cmd != nil && cmd.Annotations[guestCommand] != ""
}

// exitCode is the one place where an exit code is decided.
func exitCode(err error, guest bool) int {
	var own *exitError
	var start *guestexec.StartError
	var over *timeOverError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &over):
		return exitTimeOver
	case errors.As(err, &own):
		return own.code
	case isClosedPipe(err):
		return 128 + int(syscall.SIGPIPE)
	case banger.CodeOf(err) == banger.CodeInterrupted:
		return banger.CodeInterrupted.ExitCode()
	case !guest:
		return banger.CodeOf(err).ExitCode()
	case errors.As(err, &start) && start.Code == "not_found":
		return exitNotFound
	case errors.As(err, &start) && start.Code == "not_executable":
		return exitNotExecutable
	}
	return exitAround
}

// isClosedPipe reports whether err is a write of the answer to a reader that has
// gone, as head goes: then banger ends silently, as by SIGPIPE.
func isClosedPipe(err error) bool {
	var output *guestexec.OutputError
	var file *fs.PathError
	ours := errors.As(err, &output) || errors.As(err, &file) && file.Op == "write"
	return ours && errors.Is(err, syscall.EPIPE)
}

// finish shows err and returns the exit code.
func (a *App) finish(cmd *cobra.Command, err error) int {
	code := exitCode(err, isGuestCommand(cmd))
	var own *exitError
	if err == nil || errors.As(err, &own) || isClosedPipe(err) {
		return code
	}
	if a.progress == "json" {
		a.showJSON(err)
		return code
	}
	message, tail := errorText(err)
	fmt.Fprintf(a.IO.Err, "banger: %s\n", message)
	if tail != "" {
		fmt.Fprintf(a.IO.Err, "last lines of the console:\n%s", tail)
	}
	return code
}

// errorText is the text of err for a person, and the guest's console where the
// daemon sent it. What a guest may have written is escaped.
func errorText(err error) (message, tail string) {
	var ours *banger.Error
	var about *apierr.VMError
	var start *guestexec.StartError
	var program *exec.Error
	switch {
	case errors.As(err, &start):
		message = start.Message
		if message == "" {
			message = "the command did not start (" + start.Code + ")"
		}
	case errors.As(err, &ours):
		message = ours.Error()
	case errors.As(err, &program):
		message = program.Name + ": " + program.Err.Error()
	case errors.Is(err, context.DeadlineExceeded):
		message = "timed out"
	default:
		message = err.Error()
	}
	if errors.As(err, &about) && strings.TrimSpace(about.ConsoleTail) != "" {
		for line := range strings.Lines(safe.Text(about.ConsoleTail)) {
			tail += "  | " + strings.TrimRight(line, "\n") + "\n"
		}
	}
	return firstLines(safe.Text(message)), tail
}

// firstLines keeps an error to two lines.
func firstLines(message string) string {
	lines := strings.SplitN(strings.TrimSpace(message), "\n", 3)
	return strings.Join(lines[:min(len(lines), 2)], "\n")
}

// errorView is an error in JSON.
type errorView struct {
	Code    banger.Code `json:"code"`
	Message string      `json:"message"`
	Hint    string      `json:"hint,omitempty"`
	VM      string      `json:"vm,omitempty"`
	Console string      `json:"console_tail,omitempty"`
}

func viewError(err error) *errorView {
	if err == nil {
		return nil
	}
	view := &errorView{Code: banger.CodeOf(err), Message: err.Error()}
	var ours *banger.Error
	if errors.As(err, &ours) {
		view.Message, view.Hint = ours.Message, ours.Hint
	}
	var about *apierr.VMError
	if errors.As(err, &about) {
		view.VM, view.Console = about.VMName, about.ConsoleTail
	}
	return view
}

func (a *App) showJSON(err error) {
	_ = json.NewEncoder(a.IO.Err).Encode(map[string]any{"error": viewError(err)})
}
