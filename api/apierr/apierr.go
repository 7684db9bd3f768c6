// Package apierr carries the product's errors over the public contract: to the
// client as a Connect error with an ErrorDetail, and back. It is the only
// place that knows how codes map.
package apierr

import (
	"context"
	"errors"
	"io"
	"syscall"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// VMError is an error about one VM, with what helps to understand it.
type VMError struct {
	// Err is never nil.
	Err *banger.Error
	// VMID and VMName say which VM, when one exists.
	VMID, VMName string
	// ConsoleTail is the last lines of the guest's console. A guest wrote it:
	// escape it before it is shown on a terminal.
	ConsoleTail string
}

// Error returns the text of Err, without the console.
func (e *VMError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *VMError) Unwrap() error { return e.Err }

var connectCodes = map[banger.Code]connect.Code{
	banger.CodeFailed:      connect.CodeInternal,
	banger.CodeUsage:       connect.CodeInvalidArgument,
	banger.CodeNotFound:    connect.CodeNotFound,
	banger.CodeWrongState:  connect.CodeFailedPrecondition,
	banger.CodeUnavailable: connect.CodeUnavailable,
	banger.CodeTimeout:     connect.CodeDeadlineExceeded,
	banger.CodeInterrupted: connect.CodeCanceled,
}

// ToConnect encodes err for the wire. ToConnect(nil) is nil. A Connect error
// passes through unchanged.
func ToConnect(err error) *connect.Error {
	if err == nil {
		return nil
	}
	if wire, ok := errors.AsType[*connect.Error](err); ok {
		return wire
	}
	code := banger.CodeOf(err)
	detail := &bangerv1.ErrorDetail{Code: string(code)}
	// The hint travels apart, so that the client does not show it twice.
	message, hint := banger.Split(err)
	detail.Hint = hint
	if about, ok := errors.AsType[*VMError](err); ok {
		detail.VmId, detail.VmName, detail.ConsoleTail = about.VMID, about.VMName, about.ConsoleTail
	}
	if code == banger.CodeInterrupted && message == context.Canceled.Error() {
		message = "interrupted"
	}
	wire := connect.NewError(connectCodes[code], errors.New(message))
	if encoded, err := connect.NewErrorDetail(detail); err == nil {
		wire.AddDetail(encoded)
	}
	return wire
}

// FromConnect decodes what a client's call returned: a *banger.Error, inside a
// *VMError where the daemon named a VM. Errors with no detail (the daemon died,
// or did not answer) become codes of their own. FromConnect(nil) is nil; an
// error that is not a Connect error is returned as it is.
func FromConnect(err error) error {
	if err == nil {
		return nil
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	for _, encoded := range wire.Details() {
		value, err := encoded.Value()
		if err != nil {
			continue
		}
		if detail, ok := value.(*bangerv1.ErrorDetail); ok {
			return decode(wire, detail)
		}
	}
	return bare(wire)
}

func decode(wire *connect.Error, detail *bangerv1.ErrorDetail) error {
	code := banger.Code(detail.Code)
	if _, known := connectCodes[code]; !known {
		code = fromCode(wire.Code())
	}
	plain := &banger.Error{Code: code, Message: wire.Message(), Hint: detail.Hint}
	if code == banger.CodeInterrupted {
		plain.Cause = context.Canceled
	}
	if detail.VmId == "" && detail.VmName == "" && detail.ConsoleTail == "" {
		return plain
	}
	return &VMError{Err: plain, VMID: detail.VmId, VMName: detail.VmName, ConsoleTail: detail.ConsoleTail}
}

// bare is for errors that no handler of ours made.
func bare(wire *connect.Error) error {
	for _, broken := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(wire, broken) {
			return &banger.Error{
				Code: banger.CodeUnavailable, Message: "the daemon ended in the middle of this; what had begun is undone when it starts again",
				Hint: "the same command again, or banger daemon logs", Cause: wire,
			}
		}
	}
	switch code := fromCode(wire.Code()); code {
	case banger.CodeInterrupted:
		return &banger.Error{Code: code, Message: "interrupted", Cause: context.Canceled}
	case banger.CodeTimeout:
		return &banger.Error{Code: code, Message: "the daemon did not answer in time", Hint: "banger daemon status", Cause: wire}
	case banger.CodeUnavailable:
		return &banger.Error{Code: code, Message: "the daemon is not reachable: " + wire.Message(), Hint: "banger daemon status", Cause: wire}
	default:
		return &banger.Error{Code: code, Message: wire.Message(), Cause: wire}
	}
}

func fromCode(code connect.Code) banger.Code {
	switch code {
	case connect.CodeUnimplemented:
		// A client and a daemon of different builds.
		return banger.CodeUnavailable
	case connect.CodeAlreadyExists:
		return banger.CodeWrongState
	}
	for ours, theirs := range connectCodes {
		if theirs == code {
			return ours
		}
	}
	return banger.CodeFailed
}
