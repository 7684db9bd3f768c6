package catalog

import (
	"bufio"
	"embed"
	"io/fs"
	"strings"
)

// DefaultImage is the image of a VM that names none.
const DefaultImage = "debian-bookworm"

// KindRecipe: the image is built here, from Debian packages.
const KindRecipe = "recipe"

// Image is an image that can be made.
type Image struct {
	Name        string
	Description string
	// Kind is how it is made: KindRecipe.
	Kind string
	// Kernel names the catalog's kernel that it boots with.
	Kernel string
	// Suite is the codename of the Debian release.
	Suite string
	// Packages are installed beside apt and the essential ones.
	Packages []string
	// Files is everything else that the recipe is made of; see the comments in
	// the files:
	//
	//	packages, masks, generators, links    lists, # starts a comment
	//	overlay/                              files that go into the image
	//	essential.sh, customize.sh            run with the root as $1
	Files fs.FS
}

// debianFiles is the recipe of Debian images.
//
//go:embed recipe/debian
var debianFiles embed.FS

// Images returns the images that can be made. The slice is the caller's.
func Images() []Image {
	files, err := fs.Sub(debianFiles, "recipe/debian")
	if err != nil {
		panic(err) // the name is a constant
	}
	return []Image{{
		Name:        DefaultImage,
		Description: "Debian 12 with systemd, git, python3, make, ripgrep, tmux",
		Kind:        KindRecipe,
		Kernel:      DefaultKernel,
		Suite:       "bookworm",
		Packages:    Lines(files, "packages"),
		Files:       files,
	}}
}

// Lines returns the lines of one of a recipe's lists: no comments, no blanks. A
// list that is not there is empty.
func Lines(files fs.FS, name string) []string {
	f, err := files.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	var lines []string
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		line, _, _ := strings.Cut(scanner.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
