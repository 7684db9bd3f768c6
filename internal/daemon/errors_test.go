package daemon_test

import (
	"errors"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
)

// wantError checks an error's code and words.
func wantError(t *testing.T, err error, code banger.Code, words ...string) {
	t.Helper()
	if banger.CodeOf(err) != code {
		t.Errorf("error %v has code %q, want %q", err, banger.CodeOf(err), code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.Count(err.Error(), "\n") > 1 {
		t.Errorf("error of more than two lines: %q", err)
	}
}

func consoleOf(err error) string {
	if about, ok := errors.AsType[*apierr.VMError](err); ok {
		return about.ConsoleTail
	}
	return ""
}
