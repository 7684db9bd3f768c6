package banger

import "testing"

func TestBuildHeader(t *testing.T) {
	for value, want := range map[string]Build{
		"":                            {},
		"1.2":                         {Version: "1.2"},
		"1.2 abc":                     {Version: "1.2", Commit: "abc"},
		"1.2 abc 2026-01-01T00:00:00": {"1.2", "abc", "2026-01-01T00:00:00"},
	} {
		if got := BuildOfHeader(value); got != want {
			t.Errorf("%q: %+v", value, got)
		}
	}
	if b := BuildStamp(); BuildOfHeader(b.Header()) != b {
		t.Errorf("%+v is not what it was", b)
	}
}
