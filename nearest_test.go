package banger

import "testing"

func TestNearest(t *testing.T) {
	names := []string{"debian-6.1", "debian-bookworm"}
	for name, want := range map[string]string{
		"debian-6.2":     "debian-6.1",
		"debian61":       "debian-6.1",
		"debian-bookwrm": "debian-bookworm",
		"fedora":         "",
		"":               "",
	} {
		if got := Nearest(name, names); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}
