package catalog

import (
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
)

func TestImages(t *testing.T) {
	var names, kernels []string
	for _, k := range Kernels() {
		kernels = append(kernels, k.Name)
	}
	for _, image := range Images() {
		names = append(names, image.Name)
		if err := banger.CheckName("image", image.Name); err != nil {
			t.Error(err)
		}
		if !slices.Contains(kernels, image.Kernel) {
			t.Errorf("%s wants the kernel %s, which is not in the catalog", image.Name, image.Kernel)
		}
		if image.Description == "" || image.Kind != KindRecipe || image.Suite == "" {
			t.Errorf("%s is not complete: %+v", image.Name, image)
		}
		checkPackages(t, image)
		checkLists(t, image)
	}
	if !slices.Contains(names, DefaultImage) {
		t.Errorf("the default image %s is not in the catalog", DefaultImage)
	}
}

func checkPackages(t *testing.T, image Image) {
	t.Helper()
	valid := regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)
	for _, name := range image.Packages {
		if !valid.MatchString(name) {
			t.Errorf("%s: package %q", image.Name, name)
		}
	}
	for _, name := range []string{
		"systemd", "git", "curl", "ca-certificates", "openssh-client", "sudo", "tmux", "python3",
		"make", "ripgrep", "jq", "less", "vim-tiny",
	} {
		if !slices.Contains(image.Packages, name) {
			t.Errorf("%s lacks %s", image.Name, name)
		}
	}
}

func checkLists(t *testing.T, image Image) {
	t.Helper()
	unit := regexp.MustCompile(`^[a-zA-Z0-9@_-]+\.(service|socket|mount|automount|path|target|timer)$`)
	for _, name := range Lines(image.Files, "masks") {
		if !unit.MatchString(name) {
			t.Errorf("%s: mask %q is not a unit", image.Name, name)
		}
	}
	for _, name := range Lines(image.Files, "generators") {
		if strings.ContainsAny(name, "/ ") {
			t.Errorf("%s: generator %q", image.Name, name)
		}
	}
	for _, line := range Lines(image.Files, "links") {
		if fields := strings.Fields(line); len(fields) != 2 || !fs.ValidPath(fields[0]) {
			t.Errorf("%s: link %q", image.Name, line)
		}
	}
	for _, name := range []string{"essential.sh", "customize.sh", "overlay"} {
		if _, err := fs.Stat(image.Files, name); err != nil {
			t.Error(err)
		}
	}
}
