// Package treetar copies trees of files as tar streams: the format in which files go
// between a host and a guest. Both ends use it, so that neither needs a program for
// it, and neither trusts the other's stream.
//
// An archive holds regular files, directories, symbolic and hard links, with modes,
// times (to the nanosecond) and owners, in the PAX format; files with holes are in
// the sparse format of GNU tar (PAX 1.0). Devices, sockets and pipes are left out.
// Memory does not grow with the size of a tree.
package treetar

import (
	"errors"
	"path"
	"strings"
)

const (
	// maxDepth bounds how deep a tree may be: each level keeps a descriptor open.
	maxDepth = 256
	// chunk is how much is copied at once, in bytes, and hole the least run of
	// zeros that becomes a hole.
	chunk = 256 << 10
	hole  = 4 << 10
	// maxNotes bounds how many of the entries that were left out are named.
	maxNotes = 16
)

// errDepth: a tree is deeper than maxDepth.
var errDepth = errors.New("the tree is too deep")

// Summary is what was copied.
type Summary struct {
	// Entries are files, directories and links; Bytes is their content, holes
	// counted.
	Entries, Bytes int64
	// Skipped counts what was left out, Notes says of the first what and why.
	Skipped int64
	Notes   []string
}

func (s *Summary) skip(note string) {
	s.Skipped++
	if len(s.Notes) < maxNotes {
		s.Notes = append(s.Notes, note)
	}
}

// Top is the name that the archive of a path begins with: the last word of the path,
// or "." for the contents of a directory, as of "dir/." and "/".
func Top(name string) string {
	if name == "" || strings.HasSuffix(name, "/.") || name == "." {
		return "."
	}
	top := path.Base(path.Clean(name))
	if top == "/" || top == ".." {
		return "."
	}
	return top
}
