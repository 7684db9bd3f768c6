package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedCodeIsCurrent regenerates the contracts and compares.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	out := t.TempDir()
	cmd := exec.Command("go", "tool", "protogen", "-out", out)
	cmd.Dir = filepath.Join("..", "..")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go tool protogen: %v\n%s", err, text)
	}
	compared := 0
	err := filepath.WalkDir(out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		compared++
		fresh, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, out)
		kept, err := os.ReadFile(filepath.Join("..", "..", "api", name))
		if err != nil || !bytes.Equal(fresh, kept) {
			t.Errorf("api%s is not current (%v): run go tool protogen", name, err)
		}
		return nil
	})
	if err != nil || compared < 6 {
		t.Fatalf("compared %d files: %v", compared, err)
	}
}
