package daemon_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/template"
)

// eachTemplateStep calls f for every step of the making of a template, with a
// daemon that is hurt at it.
func eachTemplateStep(t *testing.T, action string, f func(t *testing.T, h *host)) {
	for _, point := range daemon.TemplateFaultPoints() {
		t.Run(point, func(t *testing.T) { f(t, newHost(t).start("BANGER_FAULT="+point+"="+action)) })
	}
}

func TestMakerOfATemplateKilledAtEveryStep(t *testing.T) {
	eachTemplateStep(t, "kill-self", func(t *testing.T, h *host) {
		h.create(context.Background(), &bangerv1.CreateVMRequest{Name: "dev", MemoryMib: usualMiB})
		if h.awaitEnd() == nil {
			t.Fatal("the daemon lives")
		}
		h.start()
		h.noneUnfinished()
		if n := len(h.templates()); n != 0 {
			t.Errorf("%d templates", n)
		}
		h.mustWarm(usualMiB)
		wantOrigin(t, h.runUsual("two"), "template")
		h.eventually("the VM lives on, or is undone", func() bool {
			vm, err := h.get("dev")
			return err != nil || vm.State == string(banger.StateRunning)
		})
		h.consistent()
	})
}

// Killed when the template has its name, it is there; killed in the middle of a
// removal, it is gone, and the rest with the next start.
func TestKilledBesideATemplate(t *testing.T) {
	h := newHost(t).start("BANGER_FAULT=" + daemon.PointPublished + "=kill-self")
	h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", MemoryMib: usualMiB})
	h.awaitEnd()
	h.start("BANGER_FAULT=" + template.PointRemove + "=kill-self")
	if all := h.templates(); len(all) != 1 || all[0].Damaged != "" {
		t.Errorf("templates: %v", all)
	}
	wantOrigin(t, h.runUsual("two"), "template")
	h.client.PruneTemplates(t.Context(), connect.NewRequest(&bangerv1.PruneTemplatesRequest{All: true}))
	if h.awaitEnd() == nil {
		t.Fatal("the daemon lives")
	}
	h.start()
	h.noneUnfinished()
	if n := len(h.templates()); n != 0 {
		t.Errorf("%d templates", n)
	}
	if vm := h.mustGet("two"); vm.State != string(banger.StateRunning) {
		t.Errorf("the VM that was started from it is %s", vm.State)
	}
	h.consistent()
}

func TestMakerOfATemplateFailsAtEveryStep(t *testing.T) {
	eachTemplateStep(t, "error", func(t *testing.T, h *host) {
		wantOrigin(t, h.runUsual("dev"), "boot")
		h.eventually("it says why", func() bool { return strings.Contains(h.log.String(), "injected fault at template.") })
		h.noneUnfinished()
		_, _, err := h.warm(t.Context(), usualMiB)
		wantError(t, err, banger.CodeFailed, "injected fault", "try: ")
		h.noneUnfinished()
		h.consistent()
	})
}

// hanging starts a daemon whose maker hangs, and waits until it does.
func hanging(t *testing.T, how string) *host {
	h := newHost(t).start(daemontest.MakerVar + "=" + how)
	h.runUsual("dev")
	h.awaitMaker()
	return h
}

// What is made unasked has the lowest priority, and nothing else gets it.
func TestAMakerHasTheLowestPriority(t *testing.T) {
	h := hanging(t, daemontest.MakerHangs)
	h.runUsual("other")
	nice := func(root string, want int) {
		found := process.Working(root, anyProgram)
		if len(found) < 2 {
			t.Errorf("processes in %s: %v", root, found)
		}
		for _, f := range found {
			if n, err := unix.Getpriority(unix.PRIO_PROCESS, f.PID); err != nil || 20-n != want {
				t.Errorf("%s has priority %d, want %d (%v)", f.Program, 20-n, want, err)
			}
		}
	}
	nice(h.home.Templates(), 19)
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	nice(h.home.VMs(), 20-own)
}

func (h *host) awaitMaker() {
	h.t.Helper()
	h.eventually("a maker is at work", func() bool {
		dirs := h.unfinished()
		if len(dirs) == 0 {
			return false
		}
		_, err := os.Stat(layout.Instance(dirs[0]).VMM())
		return err == nil
	})
}

func TestADaemonThatEndsTakesItsMakerAlong(t *testing.T) {
	h := hanging(t, daemontest.MakerHangs)
	began := time.Now()
	h.client.Shutdown(t.Context(), connect.NewRequest(&bangerv1.ShutdownRequest{}))
	if err := h.awaitEnd(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %s", took)
	}
	h.noneUnfinished()
	h.start()
	h.consistent()
}

func TestADaemonThatIsKilledLeavesNoMaker(t *testing.T) {
	for _, how := range []string{daemontest.MakerHangs, daemontest.MakerStubborn} {
		t.Run(how, func(t *testing.T) {
			h := hanging(t, how)
			h.kill()
			h.start()
			h.noneUnfinished()
			h.consistent()
		})
	}
}

func TestWarmIsInterrupted(t *testing.T) {
	h := newHost(t).start(daemontest.MakerVar + "=" + daemontest.MakerHangs)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := h.warm(ctx, usualMiB)
		done <- err
	}()
	h.awaitMaker()
	// Another one waits for its turn, and can be interrupted, too.
	waiting, giveUp := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer giveUp()
	if _, _, err := h.warm(waiting, 256); err == nil {
		t.Error("two makers at once")
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("no error")
	}
	h.noneUnfinished()
	h.runUsual("dev") // and VMs start all the same
}
