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
