package lockfile

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
)

func TestOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "lock")
	held, err := Acquire(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := Try(path); second != nil || err != nil {
		t.Fatalf("a taken lock was given again: %v, %v", second, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Acquire(ctx, path, cancel); !errors.Is(err, context.Canceled) {
		t.Fatalf("Acquire after cancel: %v", err)
	}
	if _, err := Acquire(t.Context(), path, held.Release); err != nil {
		t.Fatalf("Acquire of a lock that was let go: %v", err)
	}
}

func TestTryFails(t *testing.T) {
	if _, err := Try("/proc/no-such/lock"); err == nil {
		t.Fatal("no error")
	}
}
