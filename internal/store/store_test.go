package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func sample(name string) VM {
	return VM{
		ID: banger.NewID(), Name: name, State: banger.StateRunning, Reason: "r", Image: "i", ImageDigest: "d",
		Kernel: "k", VCPU: 2, MemoryMiB: 512, DiskBytes: 1, OverlayBytes: 2, NAT: true, Ephemeral: true,
		WantDriver: "auto", WantAccel: "tcg", Driver: "qemu", Accel: "tcg", Confinement: []string{"seccomp"},
		Ready: banger.GradeSystem, FailedUnits: []string{"a.service"}, Created: time.UnixMilli(1000),
		Started: time.UnixMilli(2000), MachineID: "m", HostKey: []byte("pem"),
		Cold: true, Origin: "boot", TemplateError: "e", Address: "127.77.4.1",
		Publish: []banger.Publish{{Host: netip.MustParseAddrPort("[::1]:8080"), Guest: 80}},
		Policy:  "p", PolicyRevision: 3, Expires: time.UnixMilli(3000),
	}
}

func TestVMRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir with ?#%", "store.db")
	os.MkdirAll(filepath.Dir(path), 0o700)
	s := open(t, path)
	want := sample("dev")
	op := Operation{VMID: want.ID, Kind: KindCreate, Step: "disks", Started: time.UnixMilli(5)}
	err := s.Update(t.Context(), func(tx *Tx) error { return errors.Join(tx.PutVM(want), tx.Begin(&op)) })
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path)
	if got, err := s.VMs(t.Context()); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if got, err := s.Operations(t.Context()); err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], op) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, op)
	}
	err = s.Update(t.Context(), func(tx *Tx) error { return errors.Join(tx.DeleteVM(want.ID), tx.End(op)) })
	if got, _ := s.VMs(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("after delete: %v, %v", got, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
}

func TestNamesAreUnique(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	put := func(vm VM) error {
		return s.Update(t.Context(), func(tx *Tx) error { return tx.PutVM(vm) })
	}
	if err := put(sample("dev")); err != nil {
		t.Fatal(err)
	}
	if err := put(sample("dev")); banger.CodeOf(err) != banger.CodeWrongState {
		t.Errorf("a second dev: %v", err)
	}
}

func TestUpdateIsAtomic(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	boom := errors.New("boom")
	err := s.Update(t.Context(), func(tx *Tx) error {
		if err := tx.PutVM(sample("dev")); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if got, _ := s.VMs(t.Context()); len(got) != 0 {
		t.Errorf("half of a failed update stayed: %v", got)
	}
}

func TestConcurrentUpdates(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store.db"))
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			errs[i] = s.Update(context.Background(), func(tx *Tx) error { return tx.PutVM(sample(fmt.Sprint("vm", i))) })
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.VMs(t.Context()); len(got) != len(errs) {
		t.Errorf("%d of %d VMs are there", len(got), len(errs))
	}
}

func TestDamagedStoreIsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := open(t, path)
	for i := range 50 {
		s.Update(t.Context(), func(tx *Tx) error { return tx.PutVM(sample(fmt.Sprint("vm", i))) })
	}
	s.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	half := append([]byte(nil), good...)
	for i := 4096; i < len(half); i++ {
		half[i] = 0xa5
	}
	for name, content := range map[string][]byte{"text": []byte(strings.Repeat("not a database ", 100)), "half": half} {
		bad := filepath.Join(dir, name)
		os.WriteFile(bad, content, 0o600)
		_, err := Open(bad, slog.New(slog.DiscardHandler))
		if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), "try: mv") {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(bad); !reflect.DeepEqual(after, content) {
			t.Errorf("%s: the original was changed", name)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path)
	if _, err := s.db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := Open(path, slog.New(slog.DiscardHandler)); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "newer") {
		t.Errorf("%v", err)
	}
}
