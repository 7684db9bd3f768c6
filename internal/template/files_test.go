package template

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/layout"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What a program does to a template is seen without reading it, and no template
// that another was exchanged for is taken for it.
func TestChangesAreSeen(t *testing.T) {
	for want, change := range map[string]func(t *testing.T, s *Store, one, other Template){
		`its file "memory" was changed`: func(t *testing.T, _ *Store, one, _ Template) { write(t, one.Dir.Memory(), "y", 1) },
		`its file "work.ext4" was changed`: func(t *testing.T, _ *Store, one, _ Template) {
			must(t, os.Chmod(one.Dir.Work(), 0o600))
			must(t, os.Truncate(one.Dir.Work(), 10))
		},
		`its file "overlay.ext4" was changed`: func(t *testing.T, _ *Store, one, other Template) {
			must(t, os.Rename(other.Dir.Overlay(), one.Dir.Overlay()))
		},
		`its file "memory" is missing`: func(t *testing.T, _ *Store, one, _ Template) { must(t, os.Remove(one.Dir.Memory())) },
		"its manifest is damaged": func(t *testing.T, _ *Store, one, _ Template) {
			must(t, os.Remove(one.Dir.TemplateManifest()))
		},
		"another version of banger made it": func(t *testing.T, _ *Store, one, _ Template) {
			data, err := os.ReadFile(one.Dir.TemplateManifest())
			must(t, err)
			must(t, os.Chmod(one.Dir.TemplateManifest(), 0o600))
			data = []byte(strings.Replace(string(data), `"format": "`, `"format": "0`, 1))
			must(t, os.WriteFile(one.Dir.TemplateManifest(), data, 0o600))
		},
		"its manifest is that of another": func(t *testing.T, _ *Store, one, other Template) {
			must(t, os.Rename(other.Dir.TemplateManifest(), one.Dir.TemplateManifest()))
		},
	} {
		s := New(layout.Home{State: t.TempDir()})
		one := add(t, s, 1, 3000)
		change(t, s, one, add(t, s, 2, 6000))
		found, ok := s.Look(one.Key)
		if !ok || found.Damaged != want {
			t.Errorf("want %q, got %q, %v", want, found.Damaged, ok)
		}
		if _, ok := s.Find(one.Key); ok {
			t.Errorf("%s: VMs are started from it", want)
		}
		if said, err := Verify(t.Context(), found); err != nil || said != want {
			t.Errorf("want %q, got %q, %v", want, said, err)
		}
		// It is made anew in the same place.
		if again := add(t, s, 1, 3000); again.Damaged != "" {
			t.Errorf("%s: made anew it has %q", want, again.Damaged)
		}
	}
}

// write puts text into a file, which is younger by that much then.
func write(t *testing.T, path, text string, younger time.Duration) {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	must(t, os.Chmod(path, 0o600))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte(text), info.Size()/2)
	must(t, err)
	must(t, f.Close())
	must(t, os.Chtimes(path, time.Time{}, info.ModTime().Add(younger)))
}

// What nobody wrote, but the disk lost, only Verify sees: each bit of it.
func TestVerifyReadsAll(t *testing.T) {
	s := New(layout.Home{State: t.TempDir()})
	made := add(t, s, 1, 3*block+300)
	if said, err := Verify(t.Context(), made); err != nil || said != "" {
		t.Fatalf("%q, %v", said, err)
	}
	for _, path := range []string{made.Dir.Overlay(), made.Dir.Work(), made.Dir.Memory()} {
		write(t, path, "y", 0) // an x with another bit
		found, _ := s.Look(made.Key)
		if found.Damaged != "" {
			t.Errorf("%s: %s", path, found.Damaged)
		}
		if said, err := Verify(t.Context(), found); err != nil || !strings.Contains(said, "is not what was written") {
			t.Errorf("%s: %q, %v", path, said, err)
		}
		write(t, path, "x", 0)
	}
}

// The sum is of what is read: holes may come and go.
func TestSumIsOfWhatIsRead(t *testing.T) {
	path := t.TempDir() + "/sparse"
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	const size = 64 << 20
	must(t, f.Truncate(size))
	for _, at := range []int64{3, block - 2, 20<<20 + 4096, size - 3} {
		_, err := f.WriteAt([]byte("abc"), at)
		must(t, err)
	}
	sparse, err := sumOf(t.Context(), path)
	must(t, err)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		_, err = f.WriteAt(make([]byte, 4<<20), 30<<20) // this file system has only that
		must(t, err)
	}
	if filled, err := sumOf(t.Context(), path); err != nil || filled != sparse {
		t.Errorf("%x sparse, %x filled, %v", sparse, filled, err)
	}
	_, err = f.WriteAt([]byte("b"), 20<<20+4096)
	must(t, err)
	if other, err := sumOf(t.Context(), path); err != nil || other == sparse {
		t.Errorf("%x, with another byte %x, %v", sparse, other, err)
	}
}

// FuzzManifest: whatever a manifest holds, a template is found without a panic,
// and is damaged unless it is the one of its name.
func FuzzManifest(f *testing.F) {
	home := layout.Home{State: f.TempDir()}
	key := inputs(1).Key()
	dir := home.Template(key)
	if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "{}", `{"files":[{"name":"../../x"}]}`, `{"vcpu":-1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(dir.TemplateManifest(), data, 0o600))
		found, ok := New(home).Look(key)
		if !ok || found.Damaged == "" {
			t.Errorf("%+v, %v of %q", found, ok, data)
		}
	})
}
