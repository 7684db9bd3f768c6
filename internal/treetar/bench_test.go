package treetar

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// small makes a tree of n small files, 100 to a directory.
func small(b *testing.B, n int) string {
	b.Helper()
	root := filepath.Join(b.TempDir(), "tree")
	for i := range n {
		dir := filepath.Join(root, fmt.Sprint("d", i/100))
		if i%100 == 0 {
			must(b, os.MkdirAll(dir, 0o755))
		}
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), bytes.Repeat([]byte("x"), i%100*40), 0o644))
	}
	return root
}

func BenchmarkPackSmallFiles(b *testing.B) {
	root := small(b, 2000)
	b.ReportAllocs()
	for b.Loop() {
		var out bytes.Buffer
		_, err := new(Packer).Pack(b.Context(), &out, root)
		must(b, err)
	}
}

func BenchmarkUnpackSmallFiles(b *testing.B) {
	root := small(b, 2000)
	archive, _ := pack(b, root)
	dir := b.TempDir()
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		_, err := new(Unpacker).Unpack(b.Context(), bytes.NewReader(archive), filepath.Join(dir, fmt.Sprint(n)), "tree")
		must(b, err)
	}
}
