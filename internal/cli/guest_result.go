package cli

import (
	"encoding/base64"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client/guestexec"
)

// maxCollected bounds each stream that --json collects, in bytes.
const maxCollected = 16 << 20

// bounded keeps the first maxCollected bytes.
type bounded struct {
	data []byte
	cut  bool
}

// Write keeps what fits and drops the rest.
func (b *bounded) Write(p []byte) (int, error) {
	n := min(len(p), maxCollected-len(b.data))
	b.data = append(b.data, p[:n]...)
	b.cut = b.cut || n < len(p)
	return len(p), nil
}

// collected is the output of a command run with --json.
type collected struct{ stdout, stderr bounded }

// commandView is a finished command in JSON. Output that is not UTF-8 is in
// the base64 fields instead.
type commandView struct {
	VM           string `json:"vm"`
	VMID         string `json:"vm_id"`
	ExitCode     int    `json:"exit_code"`
	Signal       int    `json:"signal,omitempty"`
	TimeOver     bool   `json:"time_over,omitempty"`
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	StdoutBase64 string `json:"stdout_base64,omitempty"`
	StderrBase64 string `json:"stderr_base64,omitempty"`
	Truncated    bool   `json:"truncated,omitempty"`
}

func (c *collected) view(vm *bangerv1.VM, exit guestexec.Exit) commandView {
	v := commandView{VM: vm.Name, VMID: vm.Id, ExitCode: exit.Code, Signal: exit.Signal, TimeOver: exit.TimeOver, Truncated: c.stdout.cut || c.stderr.cut}
	v.Stdout, v.StdoutBase64 = textOrBase64(c.stdout.data)
	v.Stderr, v.StderrBase64 = textOrBase64(c.stderr.data)
	return v
}

func textOrBase64(data []byte) (text, encoded string) {
	if utf8.Valid(data) {
		return string(data), ""
	}
	return "", base64.StdEncoding.EncodeToString(data)
}

// timeOverError is a command that was ended because its time was over.
type timeOverError struct{ said *banger.Error }

// Error implements error.
func (e *timeOverError) Error() string { return e.said.Error() }

// Unwrap returns what is said about it.
func (e *timeOverError) Unwrap() error { return e.said }

// timeOver says why a command in vm was ended.
func timeOver(vm *bangerv1.VM, limit time.Duration, exit guestexec.Exit) error {
	how := "and was ended"
	if exit.Unconfirmed {
		how = "and its guest did not say that it was ended"
	}
	return &timeOverError{banger.Errorf(banger.CodeTimeout, "vm %q: the command took longer than %s, %s", vm.Name, limit, how).
		WithHint("a longer --time-limit")}
}

// describeExecError names the VM and the next step.
func describeExecError(vm *bangerv1.VM, err error) error {
	var start *guestexec.StartError
	var ours *banger.Error
	switch {
	case errors.As(err, &start):
		text := start.Message
		if text == "" {
			text = "the command did not start: " + start.Code
		}
		return &guestexec.StartError{Code: start.Code, Message: fmt.Sprintf("vm %q: %s", vm.Name, text)}
	case errors.As(err, &ours) && ours.Code == banger.CodeWrongState:
		return banger.Errorf(banger.CodeFailed, "vm %q stopped while the command ran: %w", vm.Name, err).WithHint("banger vm logs %s", vm.Name)
	case errors.As(err, &ours) && ours.Code != banger.CodeInterrupted:
		named := *ours
		named.Message = fmt.Sprintf("vm %q: %s", vm.Name, ours.Message)
		return &named
	}
	return err
}
