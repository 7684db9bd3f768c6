package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/layout"
)

// builderVar makes the test binary a builder that is there to be killed.
const builderVar = "BANGER_TEST_BUILDER"

func TestMain(m *testing.M) {
	if os.Getenv(builderVar) != "" {
		home, err := layout.FromEnv(os.Getenv)
		if err == nil {
			_, err = New(Options{Home: home, Log: slog.New(slog.DiscardHandler)}).
				Ensure(context.Background(), catalog.DefaultImage, func(banger.Progress) {})
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// listener keeps progress.
type listener struct {
	mu    sync.Mutex
	heard []banger.Progress
}

func (l *listener) hear(p banger.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, p)
}

func (l *listener) heardOf(word string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.heard, func(p banger.Progress) bool { return strings.Contains(p.Detail, word) })
}

// setup gives a store whose mmdebstrap is a stand-in, and the file in which
// that notes its runs.
func setup(t *testing.T, how string) (store *Store, runs string) {
	t.Helper()
	fake, err := filepath.Abs("recipe/testdata")
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := os.MkdirTemp("/tmp", "banger-image-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(scratch) })
	if err := os.Chmod(scratch, 0o755); err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	runs = filepath.Join(home, "runs")
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", scratch)
	t.Setenv("FAKE", how)
	t.Setenv("FAKE_RUNS", runs)
	t.Setenv(layout.HomeVar, home)
	h, err := layout.FromEnv(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Home: h, Log: slog.New(slog.DiscardHandler)}), runs
}

func runsOf(t *testing.T, path, word string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
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

// nothingLeft fails the test if an unfinished image or a build's files exist.
func nothingLeft(t *testing.T, s *Store) {
	t.Helper()
	temp, _ := filepath.Glob(filepath.Join(s.opts.Home.Images(), layout.TempPrefix+"*"))
	scratch, _ := filepath.Glob(os.Getenv("TMPDIR") + "/*")
	if len(temp)+len(scratch) > 0 {
		t.Errorf("left behind: %v %v", temp, scratch)
	}
}

func TestEnsure(t *testing.T) {
	s, runs := setup(t, "ok")
	var l listener
	made, err := s.Ensure(t.Context(), catalog.DefaultImage, l.hear)
	if err != nil {
		t.Fatal(err)
	}
	if last := l.heard[len(l.heard)-1]; !last.Finished || last.Stage != "image" {
		t.Errorf("the last word was %+v", last)
	}
	info, err := os.Stat(made.Base())
	if err != nil || info.Mode() != 0o444 || info.Size() != made.Size {
		t.Errorf("base: %v, %v", info, err)
	}
	if made.Kernel != catalog.DefaultKernel || made.Source != SourceCatalog || len(made.ID) != 64 || made.Created.IsZero() {
		t.Errorf("manifest: %+v", made)
	}
	nothingLeft(t, s)

	again, err := s.Ensure(t.Context(), catalog.DefaultImage, l.hear)
	if err != nil || again != made || runsOf(t, runs, "run") != 1 {
		t.Errorf("the second time: %+v, %v, %d runs", again, err, runsOf(t, runs, "run"))
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0] != made {
		t.Errorf("List: %v, %v", list, err)
	}
}

func TestTwoBuildOnce(t *testing.T) {
	s, runs := setup(t, "ok")
	var wg sync.WaitGroup
	var images [4]Image
	for i := range images {
		wg.Go(func() {
			var err error
			// Each with a store of its own, as processes have.
			images[i], err = New(s.opts).Ensure(t.Context(), catalog.DefaultImage, func(banger.Progress) {})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := runsOf(t, runs, "run"); n != 1 {
		t.Errorf("built %d times", n)
	}
	for _, i := range images {
		if i != images[0] {
			t.Errorf("%+v is not %+v", i, images[0])
		}
	}
	nothingLeft(t, s)
}

func TestCancelledLeavesNothing(t *testing.T) {
	s, runs := setup(t, "hang")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Ensure(ctx, catalog.DefaultImage, func(p banger.Progress) {
		if strings.HasPrefix(p.Detail, "setting up") {
			cancel()
		}
	})
	if banger.CodeOf(err) != banger.CodeInterrupted {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, s)
	t.Setenv("FAKE", "ok")
	if _, err := s.Ensure(t.Context(), catalog.DefaultImage, func(banger.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if n := runsOf(t, runs, "fetched"); n != 1 {
		t.Errorf("the packages were fetched %d times", n)
	}
}

// TestDeadBuilder: a builder that is killed takes its processes with it, and
// the next one clears up and uses what had been fetched.
func TestDeadBuilder(t *testing.T) {
	s, runs := setup(t, "hang")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	builder := exec.Command(exe)
	builder.Env = append(os.Environ(), builderVar+"=1")
	builder.Stderr = os.Stderr
	if err := builder.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return runsOf(t, runs, "hanging") == 1 })

	// While it works, another one waits and says so.
	ctx, cancel := context.WithCancel(t.Context())
	var l listener
	_, err = s.Ensure(ctx, catalog.DefaultImage, func(p banger.Progress) { l.hear(p); cancel() })
	if !errors.Is(err, context.Canceled) || !l.heardOf("waiting") {
		t.Errorf("got %v, heard %v", err, l.heard)
	}
	if err := builder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = builder.Wait() // killed

	t.Setenv("FAKE", "ok")
	if _, err := s.Ensure(t.Context(), catalog.DefaultImage, func(banger.Progress) {}); err != nil {
		t.Fatal(err)
	}
	if n := runsOf(t, runs, "fetched"); n != 1 {
		t.Errorf("the packages were fetched %d times", n)
	}
	nothingLeft(t, s)
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-t.Context().Done():
			t.Fatal("it did not happen")
		case <-tick.C:
		}
	}
}

func TestFailureIsNamed(t *testing.T) {
	s, _ := setup(t, "fail")
	_, err := s.Ensure(t.Context(), catalog.DefaultImage, func(banger.Progress) {})
	if banger.CodeOf(err) != banger.CodeUnavailable || !strings.HasPrefix(fmt.Sprint(err), `image "debian-bookworm": mmdebstrap: Failed to fetch`) {
		t.Errorf("got %v", err)
	}
	nothingLeft(t, s)
}

func TestUnknown(t *testing.T) {
	s, _ := setup(t, "ok")
	for name, want := range map[string]struct {
		code banger.Code
		text string
	}{
		"debian-bookwrm":  {banger.CodeNotFound, `image "debian-bookwrm" is not local and not in the catalog (is it "debian-bookworm"?); try: banger image list --available`},
		"zebra":           {banger.CodeNotFound, `image "zebra" is not local and not in the catalog; try: banger image list --available`},
		"debian-bookworm": {banger.CodeNotFound, `image "debian-bookworm" is in the catalog but not local`},
		"../escape":       {banger.CodeUsage, "not valid"},
	} {
		_, err := s.Get(name)
		if banger.CodeOf(err) != want.code || !strings.Contains(fmt.Sprint(err), want.text) {
			t.Errorf("Get(%q): %v (%s)", name, err, banger.CodeOf(err))
		}
		if name == catalog.DefaultImage {
			continue
		}
		if _, err := s.Ensure(t.Context(), name, func(banger.Progress) {}); banger.CodeOf(err) != want.code {
			t.Errorf("Ensure(%q): %v", name, err)
		}
	}
	if list, err := s.List(); err != nil || list != nil {
		t.Errorf("List: %v, %v", list, err)
	}
}

func TestDamaged(t *testing.T) {
	s, runs := setup(t, "ok")
	made, err := s.Ensure(t.Context(), catalog.DefaultImage, func(banger.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(layout.Image(made.Dir).Manifest())
	if err != nil {
		t.Fatal(err)
	}
	for name, manifest := range map[string]string{
		"no JSON":     "{",
		"unknown key": `{"name":"debian-bookworm","colour":"red"}`,
		"other size":  strings.Replace(string(whole), `"size": `, `"size": 9`, 1),
		"other name":  strings.Replace(string(whole), "debian-bookworm", "debian-trixie", 1),
	} {
		if err := os.WriteFile(layout.Image(made.Dir).Manifest(), []byte(manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		// A VM may use it: it is never replaced unasked.
		if _, err := s.Ensure(t.Context(), made.Name, func(banger.Progress) {}); banger.CodeOf(err) != banger.CodeFailed || !strings.Contains(fmt.Sprint(err), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
		if list, err := s.List(); err != nil || len(list) != 0 {
			t.Errorf("%s: List: %v, %v", name, list, err)
		}
	}
	if n := runsOf(t, runs, "run"); n != 1 {
		t.Errorf("built %d times", n)
	}
}
