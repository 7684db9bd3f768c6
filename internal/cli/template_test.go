package cli

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// frozen are the templates of the daemon: one current, one not.
func frozen() []*bangerv1.Template {
	now := time.Now().UnixMilli()
	one := &bangerv1.Template{Key: strings.Repeat("c", 64), Image: "debian-bookworm", Kernel: "debian-6.1", Vcpu: 1, MemoryMib: 512,
		DiskBytes: 8 * banger.GiB, OverlayBytes: 8 * banger.GiB, Driver: "qemu", Accel: "tcg", SizeBytes: 64 * banger.MiB,
		CreatedUnixMs: now, UsedUnixMs: now, Current: true, Spares: 2}
	old := proto.CloneOf(one)
	old.Key, old.Current, old.Spares = strings.Repeat("d", 64), false, 0
	return []*bangerv1.Template{one, old}
}

func (d *fakeDaemon) ListTemplates(_ context.Context, req *connect.Request[bangerv1.ListTemplatesRequest]) (*connect.Response[bangerv1.ListTemplatesResponse], error) {
	all := frozen()
	if req.Msg.Verify {
		all[0].Current, all[0].Damaged = false, "its file \"memory\" is not what was written"
	}
	return connect.NewResponse(&bangerv1.ListTemplatesResponse{Templates: all}), nil
}

func (d *fakeDaemon) PruneTemplates(_ context.Context, req *connect.Request[bangerv1.PruneTemplatesRequest]) (*connect.Response[bangerv1.PruneTemplatesResponse], error) {
	removed := frozen()
	if !req.Msg.All && !req.Msg.Verify {
		removed = removed[1:]
	}
	return connect.NewResponse(&bangerv1.PruneTemplatesResponse{Removed: removed}), nil
}

func (d *fakeDaemon) WarmImage(_ context.Context, req *connect.Request[bangerv1.WarmImageRequest], out *connect.ServerStream[bangerv1.WarmImageResponse]) error {
	d.called("warm %s %d %d %d %d", req.Msg.Image, req.Msg.Vcpu, req.Msg.MemoryMib, req.Msg.DiskBytes, req.Msg.OverlayBytes)
	if req.Msg.Image == "none" {
		return apierr.ToConnect(banger.Errorf(banger.CodeNotFound, "image %q is not local and not in the catalog", req.Msg.Image))
	}
	out.Send(&bangerv1.WarmImageResponse{Event: &bangerv1.WarmImageResponse_Progress{Progress: &bangerv1.Progress{Stage: "template", Finished: true, ElapsedMs: 1500}}})
	return out.Send(&bangerv1.WarmImageResponse{Event: &bangerv1.WarmImageResponse_Template{Template: frozen()[0]}})
}

func TestTemplateList(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("template", "list"), 0,
		"KEY           IMAGE            KERNEL      VCPU  MEM   DISK  RUNS ON   SIZE  USED     CURRENT  SPARES\n"+
			"cccccccccccc  debian-bookworm  debian-6.1  1     512M  8G    qemu/tcg  64M   0 s ago  yes      2\n"+
			"dddddddddddd  debian-bookworm  debian-6.1  1     512M  8G    qemu/tcg  64M   0 s ago  no       0\n", "")
	w = newWorld(t, d, "")
	w.expect(t, w.run("template", "ls", "-q"), 0, strings.Repeat("c", 64)+"\n"+strings.Repeat("d", 64)+"\n", "")
	w = newWorld(t, d, "")
	w.run("template", "list", "--verify")
	if out := w.out.String(); !strings.Contains(out, "no: its file \"memory\" is not what was written  2\n") {
		t.Error(out)
	}
	w = newWorld(t, d, "")
	w.run("template", "list", "--json")
	var views []templateView
	if err := json.Unmarshal(w.out.Bytes(), &views); err != nil || len(views) != 2 || !views[0].Current || views[0].MemoryMiB != 512 {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}

func TestTemplatePrune(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("template", "prune"), 0, "dddddddddddd\n", "removed: 1, freed: 64M\n")
	w = newWorld(t, d, "")
	w.expect(t, w.run("template", "prune", "--all", "-q"), 0, strings.Repeat("c", 64)+"\n"+strings.Repeat("d", 64)+"\n", "")
	w = newWorld(t, d, "")
	w.expect(t, w.run("template", "prune", "--verify"), 0, "cccccccccccc\ndddddddddddd\n", "removed: 2, freed: 128M\n")
	w = newWorld(t, d, "")
	w.expect(t, w.run("template", "prune", "x"), 2, "", "takes no arguments")
}

func TestImageWarm(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("image", "warm"), 0, "cccccccccccc\n", `image "debian-bookworm" has a template for 1 vcpu · 512 MiB · 8G disk (64M)`)
	w = newWorld(t, d, "")
	w.expect(t, w.run("image", "warm", "debian-trixie", "--vcpu", "2", "--memory", "1G", "--disk-size", "2G", "--system-overlay-size", "1G", "-q"),
		0, strings.Repeat("c", 64)+"\n", "")
	if w.err.Len() > 0 || !d.did("warm  0 0 0 0") || !d.did("warm debian-trixie 2 1024 2147483648 1073741824") {
		t.Errorf("%q, %v", w.err.String(), d.calls)
	}
	w = newWorld(t, d, "")
	w.run("image", "warm", "--json")
	var view templateView
	if err := json.Unmarshal(w.out.Bytes(), &view); err != nil || view.Image != "debian-bookworm" {
		t.Errorf("%s: %v", w.out.String(), err)
	}
	for _, tc := range []struct {
		args, want string
		code       int
	}{
		{"image warm none", "not in the catalog", 3},
		{"image warm a b", "one argument too many", 2},
		{"image warm --vcpu 0", "--vcpu 0", 2},
		{"image warm --memory x", "--memory", 2},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(strings.Fields(tc.args)...), tc.code, "", tc.want)
	}
}

func TestVerboseSaysHowAVMBegan(t *testing.T) {
	for _, tc := range []struct{ origin, problem, args, want string }{
		{"template", "", "vm create -v", "started from a template"},
		{"spare", "", "vm create -v", "started from a spare"},
		{"template", "spare: it is\x1b sick", "vm create -v", `started from a template: the spare could not be used: it is\x1b sick`},
		{"boot", "", "vm create -v", "booted: there is no template of this image and shape yet"},
		{"boot", "", "vm create -v --cold", "booted: --cold was given"},
		{"boot", "it is\x1b sick", "vm create --verbose", `booted: the template could not be used: it is\x1b sick`},
		{"boot", "", "vm start -v dev", "booted: it has run before, on disks of its own"},
		{"template", "", "vm start -v dev", "started from a template"},
	} {
		d := newFakeDaemon(t)
		d.origin, d.problem = tc.origin, tc.problem
		d.add("dev", "running")
		w := newWorld(t, d, "")
		w.expect(t, w.run(strings.Fields(tc.args)...), 0, "", tc.want+"\n")
		if cold := strings.Contains(tc.args, "--cold"); d.created.GetCold() != cold {
			t.Errorf("%s: cold is %v", tc.args, !cold)
		}
		w = newWorld(t, d, "")
		w.run(strings.Fields(strings.NewReplacer("-v ", "", " -v", "", " --verbose", "").Replace(tc.args))...)
		if text := w.err.String(); strings.Contains(text, "booted") || strings.Contains(text, "started from") {
			t.Errorf("without -v: %q", text)
		}
	}
}

func TestShowSaysHowAVMBegan(t *testing.T) {
	d := newFakeDaemon(t)
	d.origin, d.problem = "boot", "it is sick"
	d.add("dev", "running")
	w := newWorld(t, d, "")
	w.run("vm", "show", "dev")
	if !strings.Contains(w.out.String(), "began by:     boot (the template could not be used: it is sick)\n") {
		t.Errorf("%s", w.out.String())
	}
	w = newWorld(t, d, "")
	w.run("vm", "show", "--json", "dev")
	var view vmView
	if err := json.Unmarshal(w.out.Bytes(), &view); err != nil || view.Origin != "boot" || view.TemplateError != "it is sick" {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}
