package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
	"github.com/banger-dev/banger/internal/layout"
)

// must fails the test at once.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever of a template is damaged, the next VM boots on fresh disks and says
// why, and the template is made anew.
func TestADamagedTemplateIsMadeAnew(t *testing.T) {
	for want, damage := range map[string]func(dir layout.Instance) error{
		"its manifest is damaged":             func(dir layout.Instance) error { return os.Truncate(dir.TemplateManifest(), 20) },
		`its file "overlay.ext4" was changed`: func(dir layout.Instance) error { return os.Truncate(dir.Overlay(), 4096) },
		`its file "work.ext4" is missing`:     func(dir layout.Instance) error { return os.Remove(dir.Work()) },
		`its file "memory" was changed`:       func(dir layout.Instance) error { return os.Chtimes(dir.Memory(), time.Time{}, time.Unix(1, 0)) },
		`its file "devices" was changed`:      func(dir layout.Instance) error { return os.Truncate(dir.DeviceState(), 1) },
	} {
		t.Run(want, func(t *testing.T) {
			h := newHost(t).start()
			made := h.mustWarm(usualMiB)
			dir := h.home.Template(made.Key)
			for _, path := range []string{dir.TemplateManifest(), dir.Overlay(), dir.DeviceState()} {
				must(t, os.Chmod(path, 0o600))
			}
			must(t, damage(dir))
			if now := h.templates(); len(now) != 1 || now[0].Damaged != want || now[0].Current {
				t.Errorf("listed as %v", now)
			}
			vm := h.runUsual("dev")
			wantOrigin(t, vm, "boot")
			if vm.TemplateError != want {
				t.Errorf("the VM says %q", vm.TemplateError)
			}
			if info, err := os.Stat(layout.Instance(vm.Dir).Overlay()); err != nil || info.Size() != vm.OverlayBytes {
				t.Errorf("its disk is that of the template: %v", err)
			}
			h.eventually("it is made anew", func() bool {
				now := h.templates()
				return len(now) == 1 && now[0].Damaged == "" && now[0].CreatedUnixMs > made.CreatedUnixMs
			})
			wantOrigin(t, h.runUsual("two"), "template")
			h.noneUnfinished()
		})
	}
}

// A damaged template is not taken for one by image warm, nor kept by prune.
func TestADamagedTemplateIsInNobodysWay(t *testing.T) {
	h := newHost(t).start()
	made := h.mustWarm(usualMiB)
	dir := h.home.Template(made.Key)
	must(t, os.Remove(dir.TemplateManifest()))
	if again := h.mustWarm(usualMiB); again.Key != made.Key || again.Damaged != "" || again.CreatedUnixMs <= made.CreatedUnixMs {
		t.Errorf("%v after %v", again, made)
	}
	must(t, os.Remove(dir.TemplateManifest()))
	if removed := h.prune(false); len(removed) != 1 || removed[0].Key != made.Key {
		t.Errorf("removed: %v", removed)
	}
	h.noneUnfinished()
}

// What the host's disk has lost without saying so is found by who asks.
func TestVerify(t *testing.T) {
	h := newHost(t).start()
	made := h.mustWarm(usualMiB)
	memory := h.home.Template(made.Key).Memory()
	info, err := os.Stat(memory)
	must(t, err)
	data, err := os.ReadFile(memory)
	must(t, err)
	data[3] ^= 1
	must(t, os.Chmod(memory, 0o600))
	must(t, os.WriteFile(memory, data, 0))
	must(t, os.Chtimes(memory, time.Time{}, info.ModTime()))
	if now := h.templates(); len(now) != 1 || now[0].Damaged != "" {
		t.Errorf("seen without reading: %v", now)
	}
	list, err := h.client.ListTemplates(t.Context(), connect.NewRequest(&bangerv1.ListTemplatesRequest{Verify: true}))
	must(t, err)
	if all := list.Msg.Templates; len(all) != 1 || all[0].Current || !strings.Contains(all[0].Damaged, `"memory" is not what was written`) {
		t.Errorf("verified: %v", all)
	}
	removed, err := h.client.PruneTemplates(t.Context(), connect.NewRequest(&bangerv1.PruneTemplatesRequest{Verify: true}))
	must(t, err)
	if len(removed.Msg.Removed) != 1 || len(h.templates()) != 0 {
		t.Errorf("removed: %v", removed.Msg.Removed)
	}
}

// A VM that could not be started from a template which has been made anew
// meanwhile says nothing against the new one.
func TestATemplateIsMadeAnewUnderAStart(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	must(t, unix.Mkfifo(gate, 0o600))
	h := newHost(t).start("BANGER_FAULT=create.spawn=gate:" + gate)
	h.mustWarm(usualMiB)
	done := make(chan created, 1)
	go func() {
		done <- h.create(context.Background(), &bangerv1.CreateVMRequest{Name: daemontest.Unforkable, MemoryMib: usualMiB})
	}()
	held, err := os.OpenFile(gate, os.O_WRONLY, 0) // its disks are copied
	must(t, err)
	h.prune(true)
	again := h.mustWarm(usualMiB)
	must(t, held.Close())
	c := <-done
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "boot")
	if now := h.templates(); len(now) != 1 || now[0].CreatedUnixMs != again.CreatedUnixMs {
		t.Errorf("templates: %v, want the one of %d", now, again.CreatedUnixMs)
	}
}
