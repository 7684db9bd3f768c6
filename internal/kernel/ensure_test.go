package kernel

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// archiveStore is a store whose Debian is a small signed archive, a copy that
// the test may harm.
func archiveStore(t *testing.T) (s *Store, archive string) {
	t.Helper()
	const testdata = "../apt/testdata"
	archive = filepath.Join(t.TempDir(), "debian")
	if err := os.CopyFS(archive, os.DirFS(filepath.Join(testdata, "debian"))); err != nil {
		t.Fatal(err)
	}
	keyring, err := filepath.Abs(filepath.Join(testdata, "keyring.gpg"))
	if err != nil {
		t.Fatal(err)
	}
	home := newStore(t).opts.Home
	return New(Options{Home: home, Mirror: "copy:" + archive, Keyring: keyring, Log: slog.New(slog.DiscardHandler)}), archive
}

func silent(banger.Progress) {}

// leftovers lists what is in the homes's state and debs besides locks.
func leftovers(t *testing.T, home layout.Home) []string {
	t.Helper()
	var found []string
	for _, dir := range []string{home.Kernels(), home.Debs()} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if err == nil && !strings.HasPrefix(d.Name(), layout.LockPrefix) && (d.Type().IsRegular() || strings.HasPrefix(d.Name(), layout.TempPrefix)) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// TestEnsureMakesOnce: of many callers, each with a store of its own as in
// another process, one makes the kernel; a dead maker's leftovers go.
func TestEnsureMakesOnce(t *testing.T) {
	s, _ := archiveStore(t)
	dead := layout.Temp(s.opts.Home.Kernel("debian-6.1").Dir())
	if err := os.MkdirAll(filepath.Join(dead, "modules"), 0o700); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	unpacked, finished := 0, 0
	progress := func(p banger.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if p.Finished {
			finished++
		}
		if strings.HasPrefix(p.Detail, "extracting") {
			unpacked++
		}
	}
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			k, err := New(s.opts).Ensure(t.Context(), "debian-6.1", progress)
			if err != nil || k.Version != "6.1.0-1-cloud-amd64" || len(k.SHA256) != 64 || !strings.Contains(k.Source, "1:1.0+b1") {
				t.Errorf("Ensure: %+v, %v", k, err)
			}
		})
	}
	callers.Wait()
	if unpacked != 1 || finished == 0 {
		t.Errorf("made %d times, %d callers finished", unpacked, finished)
	}
	k, err := s.Get("debian-6.1")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(k.Vmlinux()); err != nil || info.Size() != 4096 || info.Mode().Perm() != 0o444 {
		t.Errorf("vmlinux: %v, %v", info, err)
	}
	if text, err := os.ReadFile(filepath.Join(k.Modules(), "kernel/fs/overlay.ko")); err != nil || string(text) != "overlay\n" {
		t.Errorf("module: %q, %v", text, err)
	}
	for _, path := range leftovers(t, s.opts.Home) {
		if !strings.HasPrefix(path, k.Dir) {
			t.Errorf("left behind: %s", path)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0] != k {
		t.Errorf("List: %+v, %v", list, err)
	}
}

func TestEnsureFailureLeavesNothing(t *testing.T) {
	for name, harm := range map[string]func(archive string) error{
		"no archive":       os.RemoveAll,
		"package missing":  func(archive string) error { return os.RemoveAll(filepath.Join(archive, "pool")) },
		"package tampered": tamper,
	} {
		t.Run(name, func(t *testing.T) {
			s, archive := archiveStore(t)
			if err := harm(archive); err != nil {
				t.Fatal(err)
			}
			_, err := s.Ensure(t.Context(), "debian-6.1", silent)
			if banger.CodeOf(err) != banger.CodeUnavailable || !strings.HasPrefix(err.Error(), `kernel "debian-6.1": `) {
				t.Errorf("error is %v", err)
			}
			if left := leftovers(t, s.opts.Home); left != nil {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func tamper(archive string) error {
	packages, err := filepath.Glob(filepath.Join(archive, "pool", "linux-image-6*.deb"))
	if err != nil || len(packages) != 1 {
		return errors.Join(errors.New("no package to harm"), err)
	}
	data, err := os.ReadFile(packages[0])
	if err != nil {
		return err
	}
	data[len(data)-1] ^= 1
	return os.WriteFile(packages[0], data, 0o600)
}

// TestEnsureCancelled cancels at each stage of the work.
func TestEnsureCancelled(t *testing.T) {
	for _, at := range []string{"reading", "downloading", "unpacking"} {
		t.Run(at, func(t *testing.T) {
			s, _ := archiveStore(t)
			ctx, cancel := context.WithCancel(t.Context())
			_, err := s.Ensure(ctx, "debian-6.1", func(p banger.Progress) {
				if strings.HasPrefix(p.Detail, at) {
					cancel()
				}
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			for _, path := range leftovers(t, s.opts.Home) {
				// A whole, verified package may stay: the next one has use for it.
				if !strings.HasSuffix(path, ".deb") {
					t.Errorf("left behind: %s", path)
				}
			}
			if _, err := s.Ensure(t.Context(), "debian-6.1", silent); err != nil {
				t.Errorf("after a cancelled one: %v", err)
			}
		})
	}
}
