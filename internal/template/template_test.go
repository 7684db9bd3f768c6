package template

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// inputs are of a template that differs from others in its memory.
func inputs(memoryMiB int64) Inputs {
	return Inputs{
		ImageDigest: "i", KernelSHA256: "k", Initramfs: "a", Fingerprint: "f", Driver: "qemu", Accel: "tcg",
		VCPU: 1, MemoryMiB: memoryMiB, DiskBytes: 1, OverlayBytes: 2,
	}
}

// add makes a whole template that takes about size bytes.
func add(t *testing.T, s *Store, memoryMiB int64, size int) Template {
	t.Helper()
	m := Manifest{Inputs: inputs(memoryMiB), Image: "debian", Kernel: "linux", Created: time.Now()}
	dir := s.Unfinished(m.Key())
	if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir.Overlay(), dir.Work(), dir.Memory()} {
		if err := os.WriteFile(path, slices.Repeat([]byte("x"), size/3), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(dir.QMP(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Seal(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir.QMP()); err == nil {
		t.Error("what is no file is left")
	}
	if _, ok := s.Find(m.Key()); ok {
		t.Fatal("it is found before it is published")
	}
	if err := s.Publish(m.Key()); err != nil {
		t.Fatal(err)
	}
	made, ok := s.Find(m.Key())
	if !ok || made.Image != "debian" || made.MemoryMiB != memoryMiB || made.Size < int64(size) {
		t.Fatalf("%+v, %v", made, ok)
	}
	return made
}

func TestEverythingIsInTheKey(t *testing.T) {
	base := inputs(512)
	seen := map[string]bool{base.Key(): true}
	for _, change := range []func(*Inputs){
		func(i *Inputs) { i.ImageDigest = "x" }, func(i *Inputs) { i.KernelSHA256 = "x" },
		func(i *Inputs) { i.Initramfs = "x" }, func(i *Inputs) { i.Fingerprint = "x" },
		func(i *Inputs) { i.Driver = "x" }, func(i *Inputs) { i.Accel = "kvm" }, func(i *Inputs) { i.VCPU = 2 },
		func(i *Inputs) { i.MemoryMiB = 2 }, func(i *Inputs) { i.DiskBytes = 2 }, func(i *Inputs) { i.OverlayBytes = 1 },
	} {
		other := base
		change(&other)
		if seen[other.Key()] {
			t.Errorf("%+v has the key of another", other)
		}
		seen[other.Key()] = true
	}
	if base.Key() != inputs(512).Key() || !isKey(base.Key()) {
		t.Errorf("the key is %q", base.Key())
	}
}

func TestListAndTouch(t *testing.T) {
	s := New(layout.Home{State: t.TempDir()})
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("no templates: %v, %v", all, err)
	}
	one, two := add(t, s, 1, 3000), add(t, s, 2, 3000)
	if info, err := os.Stat(one.Dir.Work()); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("a disk of a template can be written: %v, %v", info.Mode(), err)
	}
	past := time.Now().Add(-time.Hour)
	for _, made := range []Template{one, two} {
		if err := os.Chtimes(made.Dir.TemplateManifest(), past, past); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Touch(two.Key); err != nil {
		t.Fatal(err)
	}
	// What is not whole is none.
	for _, name := range []string{"junk", layout.TempPrefix + strings.Repeat("ab", 32), strings.Repeat("cd", 32)} {
		if err := os.Mkdir(filepath.Join(s.home.Templates(), name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	broken := s.home.Template(strings.Repeat("cd", 32))
	if err := os.WriteFile(broken.TemplateManifest(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 3 || all[0].Key != two.Key || all[1].Key != one.Key || all[2].Key != filepath.Base(broken.Dir()) {
		t.Errorf("%v, %v", all, err)
	}
	// What has the name of one is no other's place for ever.
	if all[2].Damaged == "" || all[1].Damaged != "" {
		t.Errorf("damaged: %q, %q", all[1].Damaged, all[2].Damaged)
	}
	if err := s.Touch(strings.Repeat("ef", 32)); err == nil {
		t.Error("one that is not there is touched")
	}
}

func TestRemove(t *testing.T) {
	s := New(layout.Home{State: t.TempDir()})
	made := add(t, s, 1, 3000)
	if err := s.Remove(made.Key); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(made.Key); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if left, _ := os.ReadDir(s.home.Templates()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	for _, key := range []string{"", "..", ".tmp-x", "../vms"} {
		if err := s.Remove(key); err == nil {
			t.Errorf("%q is removed", key)
		}
		if _, ok := s.Find(key); ok {
			t.Errorf("%q is found", key)
		}
	}
}

func TestEvict(t *testing.T) {
	s := New(layout.Home{State: t.TempDir()})
	var made []Template
	for i := range 4 {
		made = append(made, add(t, s, int64(i+1), 300_000))
		used := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(made[i].Dir.TemplateManifest(), used, used); err != nil {
			t.Fatal(err)
		}
	}
	each := made[0].Size
	if removed, err := s.Evict(4*each, made[3].Key); err != nil || len(removed) != 0 {
		t.Errorf("all fit: %v, %v", removed, err)
	}
	removed, err := s.Evict(2*each, made[0].Key)
	if err != nil || len(removed) != 2 || removed[0].Key != made[1].Key || removed[1].Key != made[2].Key {
		t.Errorf("removed %v, %v", removed, err)
	}
	if removed, err := s.Evict(0, made[0].Key); err != nil || len(removed) != 1 || removed[0].Key != made[3].Key {
		t.Errorf("removed %v, %v", removed, err)
	}
}

func TestLimit(t *testing.T) {
	dir := t.TempDir()
	for _, configured := range []int64{0, 5 * banger.GiB} {
		if n, err := Limit(configured, dir); err != nil || n != configured {
			t.Errorf("%d: %d, %v", configured, n, err)
		}
	}
	if n, err := Limit(-1, dir); err != nil || n <= 0 || n > 8*banger.GiB {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := Limit(-1, filepath.Join(dir, "none")); err == nil {
		t.Error("no file system, no error")
	}
}

func TestClear(t *testing.T) {
	s := New(layout.Home{State: t.TempDir()})
	made := add(t, s, 1, 3000)
	anything := func(string) bool { return true }
	if err := Clear(t.Context(), made.Dir, anything); err == nil {
		t.Error("a finished template is cleared")
	}
	dir := s.Unfinished(made.Key)
	if err := Clear(t.Context(), dir, anything); err != nil {
		t.Errorf("nothing is there: %v", err)
	}
	if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	// A handle of an earlier boot, or nonsense, names no process.
	for _, handle := range []string{`{"pid":1,"start_time":1,"boot_id":"x"}`, `{"pid":-5}`, "{"} {
		if err := os.WriteFile(dir.VMM(), []byte(handle), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := endVMM(t.Context(), dir); err != nil {
			t.Errorf("%s: %v", handle, err)
		}
	}
	if got := Unfinished(s.home); len(got) != 1 || got[0] != dir.Dir() {
		t.Errorf("unfinished: %v", got)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("late"))
	if err := Clear(ctx, dir, anything); err != nil || len(Unfinished(s.home)) != 0 {
		t.Errorf("%v, %v", err, Unfinished(s.home))
	}
}
