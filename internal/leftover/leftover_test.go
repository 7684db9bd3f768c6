package leftover

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/store"
)

// makeWhole makes vms/id with all that a VM has.
func makeWhole(t *testing.T, home layout.Home, id string) {
	t.Helper()
	dir := home.Instance(id)
	if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir.Spec(), dir.Overlay(), dir.Work()} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFind(t *testing.T) {
	home := layout.Home{State: t.TempDir()}
	db, err := store.Open(home.Store(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	known, busy, whole := banger.NewID(), banger.NewID(), banger.NewID()
	err = db.Update(t.Context(), func(tx *store.Tx) error {
		op := store.Operation{VMID: busy, Kind: store.KindCreate, Started: time.Now()}
		return errors.Join(tx.PutVM(store.VM{ID: known, Name: "a", Created: time.Now()}),
			tx.PutVM(store.VM{ID: busy, Name: "b", Created: time.Now()}), tx.Begin(&op))
	})
	if err != nil {
		t.Fatal(err)
	}
	makeWhole(t, home, whole)
	for _, name := range []string{known, layout.TempPrefix + busy, layout.TempPrefix + known, "junk"} {
		if err := os.MkdirAll(filepath.Join(home.VMs(), name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	stray := exec.Command("cat")
	stray.Dir = filepath.Join(home.VMs(), "junk")
	stdin, err := stray.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	anything := func(string) bool { return true }
	found, err := Find(t.Context(), home, db, anything)
	if err != nil || len(found) != 3 || found[0].Process == nil || found[0].Process.PID != stray.Process.Pid {
		t.Fatalf("%v, %v", found, err)
	}
	for _, l := range found {
		if err := l.Remove(t.Context()); err != nil {
			t.Errorf("%s: %v", l, err)
		}
	}
	stray.Wait()
	if found, err := Find(t.Context(), home, db, anything); err != nil || len(found) != 0 {
		t.Errorf("still there: %v, %v", found, err)
	}
	for _, name := range []string{known, layout.TempPrefix + busy, whole} {
		if _, err := os.Stat(filepath.Join(home.VMs(), name)); err != nil {
			t.Errorf("removed, and should not be: %v", err)
		}
	}
	if found, err := Find(t.Context(), layout.Home{State: filepath.Join(home.State, "none")}, nil, anything); err != nil || len(found) != 0 {
		t.Errorf("nothing at all: %v, %v", found, err)
	}
}

func TestBuilds(t *testing.T) {
	home := layout.Home{State: t.TempDir(), Cache: t.TempDir()}
	log := slog.New(slog.DiscardHandler)
	dead, alive := home.Image("dead").Dir(), home.Image("alive").Dir()
	kernel := home.Kernel("debian-6.1").Dir()
	for _, final := range []string{dead, alive, kernel} {
		if err := os.MkdirAll(filepath.Join(layout.Temp(final), "x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := lockfile.Try(layout.Lock(alive))
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	found := Builds(home, log)
	if len(found) != 2 || found[0].Path != layout.Temp(dead) || found[1].Path != layout.Temp(kernel) {
		t.Fatalf("%v", found)
	}
	for _, l := range found {
		if err := l.Remove(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if found := Builds(home, log); len(found) != 0 {
		t.Errorf("still there: %v", found)
	}
	lock.Release()
	if found := Builds(home, log); len(found) != 1 || found[0].Path != layout.Temp(alive) {
		t.Errorf("%v", found)
	}
}

// TestSpares: a spare is no VM, and a leftover that says what it is.
func TestSpares(t *testing.T) {
	home := layout.Home{State: t.TempDir()}
	id := banger.NewID()
	makeWhole(t, home, id)
	if !Whole(home, id) {
		t.Fatal("a VM is not whole")
	}
	if err := os.WriteFile(home.Instance(id).Spare(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err := Find(t.Context(), home, nil, func(string) bool { return true })
	if Whole(home, id) || err != nil || len(found) != 1 || !found[0].Spare {
		t.Fatalf("whole: %v; found %v, %v", Whole(home, id), found, err)
	}
	if err := found[0].Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(home.VMs()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
