package kernel

import (
	"archive/tar"
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	home := layout.Home{Config: dir + "/config", State: dir + "/state", Cache: dir + "/cache"}
	return New(Options{Home: home, Log: slog.New(slog.DiscardHandler)})
}

func TestNames(t *testing.T) {
	s := newStore(t)
	for name, want := range map[string]banger.Code{
		"debian-6.1": banger.CodeNotFound,
		"debian-6.2": banger.CodeNotFound,
		"../x":       banger.CodeUsage,
		"a/b":        banger.CodeUsage,
		".":          banger.CodeUsage,
		"..":         banger.CodeUsage,
		"":           banger.CodeUsage,
		"Debian":     banger.CodeUsage,
	} {
		if _, err := s.Get(name); banger.CodeOf(err) != want {
			t.Errorf("Get(%q): %v", name, err)
		}
	}
	if _, err := s.Get("debian-6.2"); !strings.Contains(err.Error(), `"debian-6.1"`) {
		t.Errorf("no near name in %v", err)
	}
	if _, err := s.Ensure(t.Context(), "debian-6.2", func(banger.Progress) {}); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("Ensure of an unknown name: %v", err)
	}
}

// TestUnfinishedIsNoKernel: a directory of a maker that died is not listed.
func TestUnfinishedIsNoKernel(t *testing.T) {
	s := newStore(t)
	final := s.opts.Home.Kernel("debian-6.1")
	temp := layout.Kernel(layout.Temp(final.Dir()))
	for _, dir := range []layout.Kernel{temp, final} {
		if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.Vmlinux(), elfMagic, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.List(); len(list) != 0 || err != nil {
		t.Errorf("List: %v, %v", list, err)
	}
	k := Kernel{Name: "debian-6.1", Version: "6.1"}
	if err := writeManifest(temp, k); err != nil {
		t.Fatal(err)
	}
	if err := publish(temp, final); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("debian-6.1")
	if err != nil || got.Version != "6.1" || got.Dir != final.Dir() {
		t.Errorf("Get: %+v, %v", got, err)
	}
}

func TestUnpack(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, text := range map[string]string{
		"./boot/vmlinuz-6.1.0-1":                       "kernel",
		"./boot/config-6.1.0-1":                        "config",
		"./lib/modules/6.1.0-1/kernel/fs/overlay.ko":   "overlay",
		"./usr/lib/modules/6.1.0-1/modules.dep":        "dep",
		"./lib/modules/6.1.0-1/../../../../etc/passwd": "evil",
		"./usr/share/doc/readme":                       "text",
	} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(text))
	}
	w.WriteHeader(&tar.Header{Name: "./lib/modules/6.1.0-1/build", Linkname: "/", Typeflag: tar.TypeSymlink})
	w.Close()
	dir := t.TempDir()
	if err := unpackTar(&archive, filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "modules")); err != nil {
		t.Fatal(err)
	}
	var found []string
	filepath.Walk(dir, func(path string, info os.FileInfo, _ error) error {
		if info.Mode().IsRegular() {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	if got := strings.Join(found, " "); got != "modules/kernel/fs/overlay.ko modules/modules.dep vmlinuz" {
		t.Errorf("unpacked %s", got)
	}
	if err := unpackTar(bytes.NewReader(nil), filepath.Join(dir, "none"), dir); err == nil {
		t.Error("an archive without a kernel was taken")
	}
}
