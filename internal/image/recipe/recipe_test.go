package recipe

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/layout"
)

// bench is one build with the stand-in for mmdebstrap.
type bench struct {
	*Build
	runs  string
	host  host
	mu    sync.Mutex
	heard []Status
}

func newBench(t *testing.T, how string) *bench {
	t.Helper()
	fake, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	scratchDir := enterableTemp(t)
	b := &bench{runs: filepath.Join(root, "runs"), host: testHost(t)}
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", scratchDir)
	t.Setenv("FAKE", how)
	t.Setenv("FAKE_RUNS", b.runs)
	dir := layout.Image(filepath.Join(root, "unfinished"))
	if err := os.Mkdir(dir.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	b.Build = &Build{
		Image: catalog.Images()[0],
		Debs:  layout.Debs(filepath.Join(root, "debs")),
		Dir:   dir,
		Log:   slog.New(slog.DiscardHandler),
		Report: func(s Status) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.heard = append(b.heard, s)
		},
	}
	return b
}

// enterableTemp is a directory that others may enter, unlike t.TempDir.
func enterableTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-recipe-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// testHost is this host, with ids enough for whoever runs the tests.
func testHost(t *testing.T) host {
	t.Helper()
	h, err := thisHost()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (b *bench) run(ctx context.Context) ([]string, error) {
	var names []string
	err := b.runOn(ctx, b.host, func(r io.Reader) error {
		archive := tar.NewReader(r)
		for {
			hdr, err := archive.Next()
			if err == io.EOF {
				_, err = io.Copy(io.Discard, r)
				return err
			}
			if err != nil {
				return fmt.Errorf("tar: %w", err)
			}
			names = append(names, hdr.Name+hdr.Linkname)
		}
	})
	return names, err
}

// clean fails the test if anything of the build is left.
func (b *bench) clean(t *testing.T) {
	t.Helper()
	if left, _ := filepath.Glob(os.Getenv("TMPDIR") + "/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(b.Dir.Build()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

func (b *bench) count(t *testing.T, word string) int {
	t.Helper()
	data, err := os.ReadFile(b.runs)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		if first, _, _ := strings.Cut(strings.TrimSpace(line), " "); first == word {
			n++
		}
	}
	return n
}

func TestBuild(t *testing.T) {
	b := newBench(t, "ok")
	names, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(names, "\n")
	for _, want := range []string{
		"./etc/systemd/system/getty@.service/dev/null",
		"./etc/systemd/system-generators/systemd-fstab-generator/dev/null",
		"./etc/systemd/system/default.target/lib/systemd/system/multi-user.target",
		"./etc/systemd/journald.conf.d/10-banger.conf",
		"./etc/dpkg/dpkg.cfg.d/01-nodoc",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("the tree lacks %s:\n%s", want, all)
		}
	}
	b.clean(t)
	said := fmt.Sprint(b.heard)
	for _, want := range []string{"fetching package lists", "downloading essential packages 1500000 1500000", "unpacking tool (1 of 1)", "setting up tool (1 of 1)", "writing the file system"} {
		if !strings.Contains(said, want) {
			t.Errorf("nothing was said of %q: %s", want, said)
		}
	}
}

func TestPackagesAreFetchedOnce(t *testing.T) {
	b := newBench(t, "ok")
	for range 2 {
		if _, err := b.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := b.count(t, "fetched"); n != 1 {
		t.Errorf("two builds fetched %d times", n)
	}
	if _, err := os.Stat(filepath.Join(b.Debs.Dir(), "other_1.0_all.deb")); err == nil {
		t.Error("half a package was kept")
	}
	// One that is not what apt verified is fetched again.
	damaged := filepath.Join(b.Debs.Dir(), "tool_1.0-1_all.deb")
	if err := os.WriteFile(damaged, []byte("the fool\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.count(t, "fetched"); n != 2 {
		t.Errorf("a damaged package was used: fetched %d times", n)
	}
}

func TestFailures(t *testing.T) {
	for how, want := range map[string]struct {
		code banger.Code
		text string
	}{
		"fail":   {banger.CodeUnavailable, "Could not resolve 'archive.example'; try: look at the network"},
		"silent": {banger.CodeFailed, "exit status 3"},
		"cut":    {banger.CodeFailed, "tar failed: 2"},
	} {
		t.Run(how, func(t *testing.T) {
			b := newBench(t, how)
			_, err := b.run(t.Context())
			if banger.CodeOf(err) != want.code || !strings.Contains(fmt.Sprint(err), want.text) {
				t.Errorf("got %v (%s), want %q (%s)", err, banger.CodeOf(err), want.text, want.code)
			}
			b.clean(t)
			// What was fetched is there for the next.
			t.Setenv("FAKE", "ok")
			if _, err := b.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := b.count(t, "fetched"); n != 1 {
				t.Errorf("fetched %d times", n)
			}
		})
	}
}

func TestStreamCannotBeTaken(t *testing.T) {
	b := newBench(t, "hang")
	full := errors.New("no room")
	err := b.runOn(t.Context(), b.host, func(io.Reader) error { return full })
	if !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	b.clean(t)
}

func TestCancelled(t *testing.T) {
	b := newBench(t, "hang")
	ctx, cancel := context.WithCancel(t.Context())
	b.Report = func(s Status) {
		if strings.HasPrefix(s.Detail, "setting up") {
			cancel()
		}
	}
	if _, err := b.run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b.clean(t)
}

func TestMirrorIsOneWord(t *testing.T) {
	b := newBench(t, "ok")
	b.Mirror = "http://archive.example/debian [trusted=yes]"
	if _, err := b.run(t.Context()); banger.CodeOf(err) != banger.CodeUsage {
		t.Errorf("got %v", err)
	}
	b.clean(t)
	b.Mirror = "http://archive.example/debian"
	if _, err := b.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(b.runs)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), "http://archive.example/debian bookworm-updates main") {
		t.Errorf("the mirror's updates were not asked for: %s", data)
	}
}
