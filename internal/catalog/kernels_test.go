package catalog

import (
	"slices"
	"testing"
)

func TestKernels(t *testing.T) {
	var names []string
	for _, k := range Kernels() {
		if k.Description == "" || k.Arch == "" || k.Suite == "" || k.Package == "" {
			t.Errorf("%s is not complete: %+v", k.Name, k)
		}
		names = append(names, k.Name)
	}
	if !slices.Contains(names, DefaultKernel) {
		t.Errorf("the default kernel %s is not in the catalog", DefaultKernel)
	}
}

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
