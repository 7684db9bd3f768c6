package daemon_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// usualMiB is the memory that the test's host gives to a VM by default.
const usualMiB = 2048

// runUsual creates a VM of the usual shape, which must become ready.
func (h *host) runUsual(name string) *bangerv1.VM {
	h.t.Helper()
	c := h.create(h.t.Context(), &bangerv1.CreateVMRequest{Name: name, MemoryMib: usualMiB})
	if c.err != nil {
		h.t.Fatalf("create %s: %v\n%s", name, c.err, h.log)
	}
	return c.vm
}

func (h *host) templates() []*bangerv1.Template {
	h.t.Helper()
	r, err := h.client.ListTemplates(h.t.Context(), connect.NewRequest(&bangerv1.ListTemplatesRequest{}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.Templates
}

func (h *host) prune(all bool) []*bangerv1.Template {
	h.t.Helper()
	r, err := h.client.PruneTemplates(h.t.Context(), connect.NewRequest(&bangerv1.PruneTemplatesRequest{All: all}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.Removed
}

// warm makes the template of a shape and returns it with the stages passed.
func (h *host) warm(ctx context.Context, memoryMiB int64) (made *bangerv1.Template, stages []string, err error) {
	stream, err := h.client.WarmImage(ctx, connect.NewRequest(&bangerv1.WarmImageRequest{MemoryMib: memoryMiB}))
	if err != nil {
		return nil, nil, apierr.FromConnect(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if p := stream.Msg().GetProgress(); p.GetFinished() {
			stages = append(stages, p.Stage)
		}
		if t := stream.Msg().GetTemplate(); t != nil {
			made = t
		}
	}
	return made, stages, apierr.FromConnect(stream.Err())
}

func (h *host) mustWarm(memoryMiB int64) *bangerv1.Template {
	h.t.Helper()
	made, _, err := h.warm(h.t.Context(), memoryMiB)
	if err != nil || made == nil {
		h.t.Fatalf("warm: %v, %v\n%s", made, err, h.log)
	}
	return made
}

// awaitTemplates waits until there are n.
func (h *host) awaitTemplates(n int) []*bangerv1.Template {
	h.t.Helper()
	h.eventually("the templates are made", func() bool { return len(h.templates()) == n })
	return h.templates()
}

// noneUnfinished checks that nothing of a maker is left.
func (h *host) noneUnfinished() {
	h.t.Helper()
	h.eventually("no template is unfinished", func() bool { return len(h.unfinished()) == 0 })
	if found := process.Working(h.home.Templates(), anyProgram); len(found) != 0 {
		h.t.Errorf("processes are left: %+v", found)
	}
}

func (h *host) unfinished() []string {
	found, err := filepath.Glob(filepath.Join(h.home.Templates(), layout.TempPrefix+"*"))
	if err != nil {
		h.t.Fatal(err)
	}
	return found
}

func wantOrigin(t *testing.T, vm *bangerv1.VM, origin string) {
	t.Helper()
	if vm.Origin != origin {
		t.Errorf("vm %q began by %q (%s), want %q", vm.Name, vm.Origin, vm.TemplateError, origin)
	}
}

// wantCopy checks that the VM's disk is a copy of its template's.
func wantCopy(t *testing.T, vm *bangerv1.VM) {
	t.Helper()
	f, err := os.Open(layout.Instance(vm.Dir).Overlay())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	begin := make([]byte, len(daemontest.Memory))
	if _, err := f.Read(begin); err != nil || string(begin) != daemontest.Memory {
		t.Errorf("its disk is no copy of the template's: %q, %v", begin, err)
	}
}

func TestSecondRunStartsFromATemplate(t *testing.T) {
	h := newHost(t).start()
	wantOrigin(t, h.runUsual("one"), "boot")
	made := h.awaitTemplates(1)[0]
	if !made.Current || made.Image != daemontest.Image || made.MemoryMib != usualMiB || made.SizeBytes <= 0 || made.CreatedUnixMs == 0 {
		t.Errorf("the template is %v", made)
	}
	two := h.runUsual("two")
	wantOrigin(t, two, "template")
	wantCopy(t, two)
	if used := h.templates()[0]; used.UsedUnixMs <= made.UsedUnixMs {
		t.Errorf("used at %d, and before at %d", used.UsedUnixMs, made.UsedUnixMs)
	}
	// What has run has disks of its own, and boots.
	if err := h.stopVM("two"); err != nil {
		t.Fatal(err)
	}
	if vm := h.mustGet("two"); vm.Origin != "" {
		t.Errorf("a stopped VM has an origin: %q", vm.Origin)
	}
	c := h.startVM("two")
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "boot")
	// The origin outlives daemon and supervisor.
	wantOrigin(t, h.runUsual("three"), "template")
	h.kill()
	h.start()
	wantOrigin(t, h.mustGet("three"), "template")
	h.consistent()
	h.noneUnfinished()
}

func TestAnotherShapeIsMadeAtItsSecondRun(t *testing.T) {
	h := newHost(t).start()
	wantOrigin(t, h.run("one"), "boot")
	h.mustWarm(usualMiB) // had the first run begun one, it would be there now
	if n := len(h.templates()); n != 1 {
		t.Fatalf("%d templates after one run of another shape", n)
	}
	wantOrigin(t, h.run("two"), "boot")
	h.awaitTemplates(2)
	wantOrigin(t, h.run("three"), "template")
}

func TestColdUsesAndMakesNone(t *testing.T) {
	h := newHost(t).start()
	cold := func(name string, noStart bool) *bangerv1.VM {
		c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: name, MemoryMib: usualMiB, Cold: true, NoStart: noStart})
		if c.err != nil {
			t.Fatal(c.err)
		}
		return c.vm
	}
	cold("one", false)
	h.mustWarm(256)
	if n := len(h.templates()); n != 1 {
		t.Errorf("a cold run made a template")
	}
	h.mustWarm(usualMiB)
	wantOrigin(t, cold("two", false), "boot")
	cold("three", true)
	c := h.startVM("three")
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "boot")
}

func TestFirstStartOfACreatedVM(t *testing.T) {
	h := newHost(t).start()
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "dev", MemoryMib: usualMiB, NoStart: true})
	if c.err != nil {
		t.Fatal(c.err)
	}
	h.mustWarm(usualMiB)
	c = h.startVM("dev")
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "template")
	dir := layout.Instance(c.vm.Dir)
	wantCopy(t, c.vm)
	if _, err := os.Stat(dir.NewDisks().Dir()); err == nil {
		t.Error("the directory of the new disks is left")
	}
	// And makes one, if there is none.
	h.prune(true)
	c = h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "two", MemoryMib: usualMiB, NoStart: true})
	if c.err == nil {
		c = h.startVM("two")
	}
	if c.err != nil {
		t.Fatal(c.err)
	}
	wantOrigin(t, c.vm, "boot")
	h.awaitTemplates(1)
}

func TestATemplateThatFailsIsMadeAnew(t *testing.T) {
	h := newHost(t).start()
	made := h.mustWarm(usualMiB)
	for i := range 3 {
		vm := h.runUsual(daemontest.Unforkable + string(rune('a'+i)))
		wantOrigin(t, vm, "boot")
		if !strings.Contains(vm.TemplateError, "cannot be restored") {
			t.Errorf("the VM does not say why: %q", vm.TemplateError)
		}
		if i == 2 {
			break
		}
		h.eventually("it is made anew", func() bool {
			now := h.templates()
			return len(now) == 1 && now[0].CreatedUnixMs > made.CreatedUnixMs
		})
		made = h.templates()[0]
	}
	// Three failures are enough for what nobody asked for.
	h.eventually("it is given up", func() bool { return strings.Contains(h.log.String(), "it has failed too often") })
	if n := len(h.templates()); n != 0 {
		t.Errorf("%d templates are left", n)
	}
	h.mustWarm(usualMiB)
	wantOrigin(t, h.runUsual("dev"), "template")
}

func TestAVMThatDiesTakesItsTemplateAway(t *testing.T) {
	h := newHost(t).start()
	h.mustWarm(usualMiB)
	if c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: daemontest.Dies, MemoryMib: usualMiB}); c.err == nil {
		t.Error("it became ready")
	}
	if n := len(h.templates()); n != 0 {
		t.Errorf("%d templates are left", n)
	}
}

func TestNotMadeNow(t *testing.T) {
	for env, words := range map[string]string{
		daemontest.LoadVar + "=99":     "the host is busy: load 99.0",
		daemontest.FreeVar + "=2G":     "may take 3G",
		daemontest.MakerVar + "=fails": "the guest cannot be warmed",
	} {
		t.Run(env, func(t *testing.T) {
			h := newHost(t).start(env)
			h.runUsual("dev")
			h.eventually("it says why", func() bool { return strings.Contains(h.log.String(), words) })
			if n := len(h.templates()); n != 0 {
				t.Errorf("%d templates", n)
			}
			h.noneUnfinished()
		})
	}
}

func TestWarm(t *testing.T) {
	h := newHost(t).start()
	made, stages, err := h.warm(t.Context(), usualMiB)
	if err != nil || !made.GetCurrent() || strings.Join(stages, " ") != "wait template" {
		t.Fatalf("%v, %v, %v", made, stages, err)
	}
	again, stages, err := h.warm(t.Context(), 0)
	if err != nil || again.Key != made.Key || again.CreatedUnixMs != made.CreatedUnixMs || len(stages) != 0 {
		t.Errorf("again: %v, %v, %v", again, stages, err)
	}
	h.noneUnfinished()
}

func TestWarmFails(t *testing.T) {
	for env, words := range map[string][]string{
		daemontest.MakerVar + "=fails": {`the template of image "debian-bookworm" is not made: the guest cannot be warmed; try: banger daemon logs`},
		daemontest.FreeVar + "=2G":     {"may take 3G", "has 2G left", "banger template prune --all"},
	} {
		t.Run(env, func(t *testing.T) {
			h := newHost(t).start(env)
			_, _, err := h.warm(t.Context(), usualMiB)
			if err == nil {
				t.Fatal("no error")
			}
			wantError(t, err, banger.CodeOf(err), words...)
			h.noneUnfinished()
		})
	}
}

func (h *host) configure(line string) {
	h.t.Helper()
	f, err := os.OpenFile(h.home.ConfigFile(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		h.t.Fatal(err)
	}
}

func TestTemplatesTurnedOff(t *testing.T) {
	h := newHost(t)
	h.configure(`template_cache_size = "0M"`)
	h.start()
	_, _, err := h.warm(t.Context(), usualMiB)
	wantError(t, err, banger.CodeWrongState, "templates are turned off")
	wantOrigin(t, h.runUsual("dev"), "boot")
}

// With room for two, the one that was not used for the longest time goes.
func TestTheCacheIsBounded(t *testing.T) {
	h := newHost(t).start()
	first := h.mustWarm(usualMiB)
	h.kill()
	h.configure(`template_cache_size = "` + sizeOf(first.SizeBytes*5/2) + `"`)
	h.start()
	second := h.mustWarm(256)
	h.runUsual("dev") // uses the first
	third := h.mustWarm(512)
	left := h.templates()
	if len(left) != 2 || left[0].Key != third.Key || left[1].Key != first.Key {
		t.Errorf("left: %v; gone should be %s", left, second.Key)
	}
	h.configure(`# smaller`)
	cfg, _ := os.ReadFile(h.home.ConfigFile())
	os.WriteFile(h.home.ConfigFile(), []byte(strings.ReplaceAll(string(cfg), sizeOf(first.SizeBytes*5/2), "1K")), 0o600)
	_, _, err := h.warm(t.Context(), 1024)
	wantError(t, err, banger.CodeUnavailable, "all together may take 1K", "template_cache_size")
	h.noneUnfinished()
}

func sizeOf(n int64) string { return banger.FormatSize(n / banger.KiB * banger.KiB) }

func TestPrune(t *testing.T) {
	h := newHost(t).start()
	old := h.mustWarm(usualMiB)
	wantOrigin(t, h.runUsual("old"), "template")
	h.kill()
	h.start(daemontest.FingerprintVar + "=another")
	if now := h.templates(); len(now) != 1 || now[0].Current {
		t.Fatalf("%v", now)
	}
	wantOrigin(t, h.runUsual("dev"), "boot")
	now := h.awaitTemplates(2)
	if removed := h.prune(false); len(removed) != 1 || removed[0].Key != old.Key {
		t.Errorf("removed: %v, want %s of %v", removed, old.Key, now)
	}
	if removed := h.prune(false); len(removed) != 0 {
		t.Errorf("removed: %v", removed)
	}
	if removed := h.prune(true); len(removed) != 1 || len(h.templates()) != 0 {
		t.Errorf("removed: %v", removed)
	}
	h.noneUnfinished()
	if vm := h.mustGet("old"); vm.State != string(banger.StateRunning) {
		t.Errorf("a VM that was started from a template that is gone is %s", vm.State)
	}
	h.consistent()
}
