package disks

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	sys := t.TempDir()
	write(t, filepath.Join(sys, "vda/serial"), "base\n")
	write(t, filepath.Join(sys, "vdb/serial"), "work")
	write(t, filepath.Join(sys, "loop0/size"), "0\n")
	found, err := Find(context.Background(), sys, "base", "work")
	if err != nil || found["base"] != "/dev/vda" || found["work"] != "/dev/vdb" {
		t.Errorf("%v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Find(ctx, sys, "base", "overlay"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestSize(t *testing.T) {
	sys := t.TempDir()
	write(t, filepath.Join(sys, "vda/size"), "16\n")
	write(t, filepath.Join(sys, "vdb/size"), "99999999999999999999\n")
	if n, err := size(sys, "/dev/vda"); n != 8192 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, device := range []string{"/dev/vdb", "/dev/none"} {
		if _, err := size(sys, device); err == nil {
			t.Errorf("%s has a size", device)
		}
	}
}

// What mkfs makes is read as what it was told to make.
func TestReadSuper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	write(t, path, "")
	if _, err := readSuper(path); err == nil {
		t.Error("an empty file has a superblock")
	}
	if out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-b", "4096", "-O", "64bit", path, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fs, err := readSuper(path)
	if err != nil || fs.blocks != 16384 || fs.blockSize != 4096 {
		t.Errorf("%+v, %v", fs, err)
	}
	sys := t.TempDir()
	write(t, filepath.Join(sys, "disk/size"), "131072\n")
	if err := grow(sys, path, nil); err != nil { // nothing to do
		t.Error(err)
	}
	for _, serial := range []string{"base", "", "../x"} {
		if err := Grow(context.Background(), serial, 1); err == nil {
			t.Errorf("%q was grown", serial)
		}
	}
}

func FuzzParseSuper(f *testing.F) {
	f.Add(make([]byte, superSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSuper(b); err == nil && (s.blockSize < 1024 || s.blockSize > 64<<10) {
			t.Errorf("%+v", s)
		}
	})
}
