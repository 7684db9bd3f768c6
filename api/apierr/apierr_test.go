package apierr

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
)

func TestRoundTrip(t *testing.T) {
	for code := range connectCodes {
		in := banger.Errorf(code, "vm %q: no", "dev").WithHint("banger vm list")
		got := FromConnect(fmt.Errorf("call: %w", ToConnect(in)))
		out, ok := errors.AsType[*banger.Error](got)
		if !ok || out.Code != code || out.Message != in.Message || out.Hint != in.Hint {
			t.Errorf("%s came back as %#v", code, got)
		}
	}
}

func TestVMErrorKeepsConsole(t *testing.T) {
	in := &VMError{Err: banger.Errorf(banger.CodeTimeout, "late").WithHint("h"), VMID: "1", VMName: "dev", ConsoleTail: "a\nb"}
	out, ok := errors.AsType[*VMError](FromConnect(ToConnect(in)))
	if !ok || out.VMID != "1" || out.VMName != "dev" || out.ConsoleTail != "a\nb" || out.Error() != "late; try: h" {
		t.Fatalf("came back as %#v", out)
	}
}

func TestContextErrors(t *testing.T) {
	if got := FromConnect(ToConnect(context.Canceled)); banger.CodeOf(got) != banger.CodeInterrupted || !errors.Is(got, context.Canceled) {
		t.Errorf("cancelled: %v", got)
	}
	if got := FromConnect(ToConnect(context.DeadlineExceeded)); banger.CodeOf(got) != banger.CodeTimeout {
		t.Errorf("deadline: %v", got)
	}
	if ToConnect(nil) != nil || FromConnect(nil) != nil {
		t.Error("nil is not nil")
	}
}

func TestErrorsWithoutDetail(t *testing.T) {
	for code, want := range map[connect.Code]banger.Code{
		connect.CodeUnavailable:      banger.CodeUnavailable,
		connect.CodeUnimplemented:    banger.CodeUnavailable,
		connect.CodeCanceled:         banger.CodeInterrupted,
		connect.CodeDeadlineExceeded: banger.CodeTimeout,
		connect.CodeAlreadyExists:    banger.CodeWrongState,
		connect.CodeDataLoss:         banger.CodeFailed,
	} {
		if got := FromConnect(connect.NewError(code, errors.New("x"))); banger.CodeOf(got) != want {
			t.Errorf("%v: %v, want code %s", code, got, want)
		}
	}
	plain := errors.New("plain")
	if FromConnect(plain) != plain {
		t.Error("a foreign error was changed")
	}
}
