package uevent

import (
	"context"
	"errors"
	"testing"
)

func TestWaitFindsAtOnce(t *testing.T) {
	if err := Wait(context.Background(), func() bool { return true }); err != nil {
		t.Fatal(err)
	}
}

func TestWaitFindsWhatCameWhileListening(t *testing.T) {
	asked := 0
	found := func() bool { asked++; return asked == 2 }
	if err := Wait(context.Background(), found); err != nil {
		t.Fatal(err)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("gone")
	asked := 0
	found := func() bool {
		if asked++; asked == 2 {
			cancel(gone)
		}
		return false
	}
	if err := Wait(ctx, found); !errors.Is(err, gone) {
		t.Fatalf("got %v", err)
	}
}
