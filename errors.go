package banger

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Code is one of a small closed set of error kinds, the same on every contract.
type Code string

// The codes, and the exit code that a command ends with for each.
const (
	CodeFailed      Code = "failed"      // 1
	CodeUsage       Code = "usage"       // 2
	CodeNotFound    Code = "not_found"   // 3
	CodeWrongState  Code = "wrong_state" // 4: also "already exists"
	CodeUnavailable Code = "unavailable" // 5: daemon or host not usable
	CodeTimeout     Code = "timeout"     // 6
	CodeInterrupted Code = "interrupted" // 130
)

// ExitCode is what a command other than run, exec and ssh exits with.
func (c Code) ExitCode() int {
	switch c {
	case CodeUsage:
		return 2
	case CodeNotFound:
		return 3
	case CodeWrongState:
		return 4
	case CodeUnavailable:
		return 5
	case CodeTimeout:
		return 6
	case CodeInterrupted:
		return 130
	}
	return 1
}

// Error is an error that a person may see. Message names the object and the
// cause; Hint is the next step, without the words "try:".
type Error struct {
	Code    Code
	Message string
	Hint    string
	// Cause may be nil. It is not part of the text: put what matters of it in
	// Message.
	Cause error
}

// beforeHint stands between the message and the hint.
const beforeHint = "; try: "

// Error returns the message and, after "; try: ", the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + beforeHint + e.Hint
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// WithHint sets the next step and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Errorf makes an Error. A %w in format becomes its cause. The hint of an Error
// among args does not stay in the middle of the message: it is the new one's
// own, until WithHint sets another.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	e := &Error{Code: code, Message: wrapped.Error(), Cause: errors.Unwrap(wrapped)}
	for _, arg := range args {
		if inner, ok := arg.(error); ok {
			text, hint := Split(inner)
			if hint != "" {
				e.Message = strings.Replace(e.Message, inner.Error(), text, 1)
				e.Hint = hint
			}
		}
	}
	return e
}

// Split divides the text of err into what happened and the next step, so that
// an error around an Error says only one. The hint may be empty.
func Split(err error) (text, hint string) {
	text = err.Error()
	var e *Error
	if !errors.As(err, &e) || e.Hint == "" {
		return text, ""
	}
	return strings.Replace(text, beforeHint+e.Hint, "", 1), e.Hint
}

// SplitText is Split for the text of an Error that came from another process,
// as one line of its log.
func SplitText(line string) (text, hint string) {
	text, hint, _ = strings.Cut(line, beforeHint)
	return text, hint
}

// CodeOf returns the code of the first Error in err's chain; context errors
// are interrupted and timeout; anything else is failed. CodeOf(nil) is "".
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return CodeInterrupted
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout
	}
	return CodeFailed
}
