package banger

import (
	"fmt"
	"testing"
)

func TestOneHint(t *testing.T) {
	inner := Errorf(CodeUnavailable, "banger-vm is missing").WithHint("make install")
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"the outer one wins": {Errorf(CodeFailed, "vm %q: %w", "dev", inner).WithHint("banger doctor"),
			`vm "dev": banger-vm is missing; try: banger doctor`},
		"the inner one is kept":     {Errorf(CodeFailed, "vm %q: %v", "dev", inner), `vm "dev": banger-vm is missing; try: make install`},
		"it moves to the end":       {Errorf(CodeFailed, "%w (in %s)", inner, "/x"), "banger-vm is missing (in /x); try: make install"},
		"through a plain error":     {Errorf(CodeFailed, "a: %w", fmt.Errorf("b: %w, c", inner)), "a: b: banger-vm is missing, c; try: make install"},
		"with no hint nothing more": {Errorf(CodeFailed, "a: %w", Errorf(CodeUsage, "b")), "a: b"},
	} {
		if got := tc.err.Error(); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestSplit(t *testing.T) {
	inner := Errorf(CodeUsage, "b").WithHint("c")
	if text, hint := Split(fmt.Errorf("a: %w", inner)); text != "a: b" || hint != "c" {
		t.Errorf("Split: %q, %q", text, hint)
	}
	if text, hint := SplitText(inner.Error()); text != "b" || hint != "c" {
		t.Errorf("SplitText: %q, %q", text, hint)
	}
	if text, hint := SplitText("boom"); text != "boom" || hint != "" {
		t.Errorf("SplitText of a plain line: %q, %q", text, hint)
	}
}
