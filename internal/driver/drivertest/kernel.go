package drivertest

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/kernel"
	"github.com/banger-dev/banger/internal/layout"
)

// cacheVar names the directory that all tests share what takes long to make in;
// empty: banger-test in the user's cache directory.
const cacheVar = "BANGER_TEST_CACHE"

// Kernel returns Debian's 6.1: its vmlinux and the directory of its modules. The
// first test on a host fetches it.
func Kernel(t testing.TB) (vmlinux, modules string) {
	t.Helper()
	cache := os.Getenv(cacheVar)
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cache = filepath.Join(base, "banger-test")
	}
	home := layout.Home{State: filepath.Join(cache, "state"), Cache: filepath.Join(cache, "cache")}
	store := kernel.New(kernel.Options{Home: home, Log: slog.New(slog.DiscardHandler)})
	k, err := store.Ensure(t.Context(), "debian-6.1", func(banger.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return k.Vmlinux(), k.Modules()
}
