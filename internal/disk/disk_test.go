package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
)

// fsck fails the test unless e2fsck finds nothing at all to mend.
func fsck(t *testing.T, path string) {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := exec.Command("e2fsck", "-fn", path).CombinedOutput(); err != nil {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

// empty fails the test if dir holds anything.
func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Fatalf("left behind in %s: %v, %v", dir, left, err)
	}
}

func TestCreateExt4(t *testing.T) {
	for _, size := range []int64{MinSize, 1<<30 + 1, 8 << 30, 100 << 30} {
		path := filepath.Join(t.TempDir(), "work.ext4")
		if err := CreateExt4(t.Context(), path, size, "work"); err != nil {
			t.Fatal(err)
		}
		fsck(t, path)
		info, err := os.Stat(path)
		if err != nil || info.Size() < size || info.Size() >= size+blockSize || info.Mode().Perm() != 0o600 {
			t.Errorf("asked for %d: %v, %v", size, info, err)
		}
		allocated, err := Allocated(path)
		if err != nil || allocated > 8<<20 {
			t.Errorf("an empty disk of %d takes %d bytes, %v", size, allocated, err)
		}
		// A guest must not spend its time on zeroing tables.
		out, err := exec.Command("dumpe2fs", path).Output()
		if groups, zeroed := len(regexp.MustCompile(`(?m)^Group \d+:`).FindAll(out, -1)), bytes.Count(out, []byte("ITABLE_ZEROED")); err != nil || groups != zeroed {
			t.Errorf("%d of %d groups are initialised, %v", zeroed, groups, err)
		}
	}
}

func TestCreateExt4Grows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "work.ext4")
	if err := CreateExt4(t.Context(), path, 1<<30, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64<<30); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := exec.Command("resize2fs", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("resize2fs: %v\n%s", err, out)
	}
	fsck(t, path)
}

func TestCreateExt4Refuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "work.ext4")
	for _, size := range []int64{-1, 0, MinSize - 1, MaxSize + 1} {
		if err := CreateExt4(t.Context(), path, size, ""); banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if err := CreateExt4(t.Context(), path, MinSize, "a label of more than 16"); err == nil {
		t.Error("a long label was taken")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := CreateExt4(ctx, path, MinSize, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	empty(t, dir)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CreateExt4(t.Context(), path, MinSize, ""); banger.CodeOf(err) != banger.CodeWrongState {
		t.Errorf("over an existing disk: %v", err)
	}
	if kept, _ := os.ReadFile(path); string(kept) != "precious" {
		t.Errorf("the existing disk was changed: %q", kept)
	}
}

// TestFullDisk plays a mkfs that finds no space: what a full file system, which
// only root can make, does to the real one.
func TestFullDisk(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	script := "#!/bin/sh\necho 'mkfs.ext4: No space left on device while writing out and closing file system' >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	err := CreateExt4(t.Context(), filepath.Join(dir, "work.ext4"), MinSize, "work")
	if err == nil || !strings.Contains(err.Error(), "no space left on the host") || !strings.Contains(err.Error(), "df -h") {
		t.Errorf("error is %v", err)
	}
	empty(t, dir)
}

func TestMkfsOutsidePath(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	if err := CreateExt4(t.Context(), filepath.Join(t.TempDir(), "d"), MinSize, ""); err != nil {
		t.Fatal(err)
	}
}

func TestClone(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	f, err := os.Create(src)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	extents := map[int64]string{0: "head", 5 << 20: "middle", 300 << 20: "far"}
	for offset, text := range extents {
		if _, err := f.WriteAt([]byte(text), offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	written := time.Unix(1_600_000_000, 123_456_789)
	if err := os.Chtimes(src, time.Time{}, written); err != nil {
		t.Fatal(err)
	}
	if err := Clone(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	clone, err := os.Open(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	for offset, text := range extents {
		got := make([]byte, len(text))
		if _, err := clone.ReadAt(got, offset); err != nil || string(got) != text {
			t.Errorf("at %d: %q, %v", offset, got, err)
		}
	}
	if info, err := clone.Stat(); err != nil || info.Size() != 1<<30 || !info.ModTime().Equal(written) {
		t.Errorf("clone is %v, %v", info, err)
	}
	if n, err := Allocated(dst); err != nil || n > 1<<20 {
		t.Errorf("clone takes %d bytes, %v", n, err)
	}
}

func TestCloneRefuses(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "dst")
	if err := Clone(t.Context(), dst, filepath.Join(dir, "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing source: %v", err)
	}
	if err := Clone(t.Context(), dst, "/dev/zero"); err == nil {
		t.Error("a device was cloned")
	}
	empty(t, dir)
	src := filepath.Join(t.TempDir(), "src")
	if err := os.WriteFile(src, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Clone(ctx, dst, src); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	empty(t, dir)
}

// TestCopyToFullDevice lets the copy meet a real ENOSPC.
func TestCopyToFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	src, err := os.CreateTemp(t.TempDir(), "src")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.WriteString("data"); err != nil {
		t.Fatal(err)
	}
	err = explain("dir/dst", copyExtent(t.Context(), full, src, 0, 4))
	if err == nil || !strings.Contains(err.Error(), "no space left on the host") {
		t.Errorf("error is %v", err)
	}
}

func TestFree(t *testing.T) {
	if n, err := Free(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("Free = %d, %v", n, err)
	}
	if _, err := Free("/no/such/place"); err == nil {
		t.Error("no error for a missing path")
	}
}

func TestGrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ size, want int64 }{{8192, 8192}, {8192, 8192}, {4096, 8192}, {1 << 40, 1 << 40}} {
		if err := Grow(path, c.size); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != c.want {
			t.Errorf("grown to %d: %v, %v", c.size, info, err)
		}
	}
	if n, err := Allocated(path); err != nil || n > 64<<10 {
		t.Errorf("%d bytes are allocated: %v", n, err)
	}
	if err := Grow(path, MaxSize+1); err == nil {
		t.Error("a disk beyond the maximum")
	}
	if err := Grow(path+"x", 4096); err == nil {
		t.Error("a disk that is not there")
	}
	if RoundUp(1) != 4096 || RoundUp(4096) != 4096 {
		t.Errorf("%d, %d", RoundUp(1), RoundUp(4096))
	}
}

func TestAllocatedTree(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "tree/sub/file")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	once, err := AllocatedTree(t.Context(), filepath.Join(dir, "tree"))
	if err != nil || once < 1<<20 || once > 2<<20 {
		t.Errorf("%d, %v", once, err)
	}
	if err := os.Link(file, file+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tree", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if twice, err := AllocatedTree(t.Context(), filepath.Join(dir, "link")); err != nil || twice != once {
		t.Errorf("a second name: %d, not %d: %v", twice, once, err)
	}
	if n, err := AllocatedTree(t.Context(), filepath.Join(dir, "none")); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
