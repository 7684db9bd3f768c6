package initramfs

import (
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDigests: a file that changes is read again, in place or replaced, also
// when it has changed only now.
func TestDigests(t *testing.T) {
	var d digests
	path := filepath.Join(t.TempDir(), "agent")
	for _, text := range []string{"one", "two", "six"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := d.sum(path); err != nil || got != sha256.Sum256([]byte(text)) {
				t.Fatalf("%s: %x, %v", text, got, err)
			}
		}
	}
	if d.known != (version{}) {
		t.Error("a file that has just changed is remembered")
	}
	if _, err := d.sum(path + "x"); err == nil {
		t.Error("a file that is not there has a digest")
	}
}

// TestDigestIsRemembered: of a file that is as old as an installed one.
func TestDigestIsRemembered(t *testing.T) {
	var d digests
	self, err := os.Executable() // the test's program
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(self)
	if err != nil {
		t.Fatal(err)
	}
	if wait := time.Until(info.ModTime().Add(settled + time.Second)); wait > 0 {
		<-time.After(wait)
	}
	first, err := d.sum(self)
	if err != nil || d.known == (version{}) {
		t.Fatalf("not remembered: %v", err)
	}
	d.sha[0]++ // so that it shows where the answer comes from
	if again, err := d.sum(self); err != nil || again == first {
		t.Errorf("it was read again: %v", err)
	}
}
