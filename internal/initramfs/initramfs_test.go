package initramfs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"

	"github.com/banger-dev/banger/internal/layout"
)

func write1(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func compressed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(text))
	w.Close()
	return b.String()
}

func setUp(t *testing.T) (layout.Home, Kernel, string) {
	t.Helper()
	dir := t.TempDir()
	agent := filepath.Join(dir, "agent")
	write1(t, agent, "the agent")
	modules := filepath.Join(dir, "modules")
	write1(t, filepath.Join(modules, "kernel/fs/overlay.ko"), "overlay")
	write1(t, filepath.Join(modules, "kernel/virtio/virtio.ko.xz"), compressed(t, "virtio"))
	write1(t, filepath.Join(modules, "kernel/sound/beep.ko"), "beep")
	return layout.Home{Cache: filepath.Join(dir, "cache")}, Kernel{SHA256: "abc", Modules: modules}, agent
}

func TestContents(t *testing.T) {
	home, k, agent := setUp(t)
	path, err := Ensure(t.Context(), home, k, agent)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(f))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range records {
		var b bytes.Buffer
		if r.ReaderAt != nil {
			b.ReadFrom(io.NewSectionReader(r, 0, int64(r.FileSize)))
		}
		got[r.Name] = b.String()
	}
	if got["init"] != "the agent" || got["modules/03-virtio.ko"] != "virtio" || got["modules/10-overlay.ko"] != "overlay" {
		t.Errorf("contents: %q", got)
	}
	if got["modules/order"] != "03-virtio.ko\n10-overlay.ko\n" {
		t.Errorf("order: %q", got["modules/order"])
	}
	if _, ok := got["dev/console"]; !ok || len(got) != 7 {
		t.Errorf("entries: %q", got)
	}
}

func TestCache(t *testing.T) {
	home, k, agent := setUp(t)
	first, err := Ensure(t.Context(), home, k, agent)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(first)
	again, err := Ensure(t.Context(), home, k, agent)
	if err != nil || again != first {
		t.Fatalf("second: %s, %v", again, err)
	}
	if after, _ := os.Stat(again); !os.SameFile(before, after) {
		t.Error("it was made again")
	}
	old := time.Now().Add(-2 * keep)
	if err := os.Chtimes(first, old, old); err != nil {
		t.Fatal(err)
	}
	write1(t, agent, "another agent")
	other, err := Ensure(t.Context(), home, k, agent)
	if err != nil || other == first {
		t.Fatalf("another agent has the same file: %v", err)
	}
	entries, _ := os.ReadDir(home.Initramfs())
	if len(entries) != 1 || !strings.HasSuffix(other, entries[0].Name()) {
		t.Errorf("left: %v", entries)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	home, k, agent := setUp(t)
	write1(t, filepath.Join(k.Modules, "kernel/net/virtio_net.ko.xz"), "not xz")
	if _, err := Ensure(t.Context(), home, k, agent); err == nil {
		t.Error("a damaged module was taken")
	}
	if entries, _ := os.ReadDir(home.Initramfs()); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
}
