package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/template"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/vmhost"
)

const (
	// maxStrikes is how often a template may fail, in the making or in the use,
	// before it is no more made unasked in this life of the daemon.
	maxStrikes = 3
	// maxCounted bounds how many shapes are remembered.
	maxCounted = 256
)

// templates decides which new VMs start from a template, and which templates
// are made.
//
//	first run of a shape → no template: boots → ready → one is made (template_make.go)
//	                     → template: disks cloned → the supervisor restores it
//	                         → it could not: the VM has booted; the template is
//	                           removed and made anew
type templates struct {
	d      *Daemon
	log    *slog.Logger
	store  *template.Store
	prints vmhost.Fingerprints
	// turn holds one token: who has it makes a template.
	turn chan struct{}

	mu sync.Mutex
	// runs counts the cold first runs by key, strikes the failures.
	runs, strikes map[string]int
}

func newTemplates(d *Daemon) *templates {
	t := &templates{
		d: d, log: d.log, store: template.New(d.opts.Home), turn: make(chan struct{}, 1),
		runs: map[string]int{}, strikes: map[string]int{},
	}
	t.turn <- struct{}{}
	return t
}

// recipe is what a template consists of, whether it is there or not.
type recipe struct {
	template.Manifest
	key   string
	parts parts
	// usual: of the shape that VMs have by default.
	usual bool
}

// firstRun is a run that a template could be used for.
type firstRun struct {
	recipe *recipe
	// template is the directory of the one that is used; empty: the VM boots.
	template string
	// made is when that was made: another may have its name by now.
	made time.Time
	// problem is why one that is there is not used.
	problem string
	// grow is what its disks are to have, where the template's are smaller.
	grow growth
}

// errNoTemplates: the config wants none.
var errNoTemplates = banger.Errorf(banger.CodeWrongState, "templates are turned off: template_cache_size is 0")

// recipe names the template of a VM.
func (t *templates) recipe(ctx context.Context, rec store.VM, image Image, kernel Kernel) (*recipe, error) {
	cfg, err := t.d.opts.Config()
	if err != nil {
		return nil, err
	}
	if cfg.TemplateCacheBytes() == 0 {
		return nil, errNoTemplates
	}
	print, err := t.fingerprint(ctx, rec.Driver, rec.Accel)
	if err != nil {
		return nil, err
	}
	def := config.Resolve(cfg, t.d.opts.Host)
	r := &recipe{
		Manifest: template.Manifest{
			Image: rec.Image, Kernel: rec.Kernel,
			Inputs: template.Inputs{
				ImageDigest: image.ID, KernelSHA256: kernel.SHA256, Initramfs: initramfsName(kernel),
				Fingerprint: print, Driver: rec.Driver, Accel: rec.Accel, VCPU: rec.VCPU,
				MemoryMiB: rec.MemoryMiB, DiskBytes: rec.DiskBytes, OverlayBytes: rec.OverlayBytes,
			},
		},
		parts: parts{base: image.Base, vmlinux: kernel.Vmlinux, initrd: kernel.Initrd, accel: rec.Accel},
		usual: rec.VCPU == def.VCPU.Value && rec.MemoryMiB == def.MemoryMiB.Value &&
			rec.DiskBytes == def.DiskBytes.Value && rec.OverlayBytes == def.OverlayBytes.Value,
	}
	r.key = r.Key()
	return r, nil
}

// initramfsName names the initramfs by what is in it.
func initramfsName(k Kernel) string { return filepath.Base(k.Initrd) }

func (t *templates) fingerprint(ctx context.Context, driver, accel string) (string, error) {
	bin, err := t.d.qemuBin()
	if err != nil {
		return "", err
	}
	return t.prints.Of(ctx, vmhost.Machine{Supervisor: t.d.opts.Supervisor, QEMU: bin, Driver: driver, Accel: accel})
}

// first looks at the first run of a VM; nil says that no template is to be had
// or wanted. A template that cannot be named is no reason not to run.
func (t *templates) first(ctx context.Context, rec store.VM, image Image, kernel Kernel) *firstRun {
	if rec.Cold {
		return nil
	}
	r, err := t.recipe(ctx, rec, image, kernel)
	if err != nil {
		if !errors.Is(err, errNoTemplates) {
			t.log.Info("a VM has no template", "vm", rec.ID, "reason", err)
		}
		return nil
	}
	return &firstRun{recipe: r}
}

// orSmaller is f, or, where its VM asks for larger disks than VMs usually have and
// no template has them, the first run from the template with the usual ones: its
// disks are grown once the guest runs.
func (t *templates) orSmaller(f *firstRun) *firstRun {
	if f == nil {
		return nil
	}
	if _, ok := t.store.Find(f.recipe.key); ok {
		return f
	}
	cfg, err := t.d.opts.Config()
	if err != nil {
		return f
	}
	def := config.Resolve(cfg, t.d.opts.Host)
	disk, overlay := f.recipe.DiskBytes, f.recipe.OverlayBytes
	if disk < def.DiskBytes.Value || overlay < def.OverlayBytes.Value {
		return f // disks only grow
	}
	usual := *f.recipe
	usual.DiskBytes, usual.OverlayBytes = def.DiskBytes.Value, def.OverlayBytes.Value
	usual.usual = usual.VCPU == def.VCPU.Value && usual.MemoryMiB == def.MemoryMiB.Value
	usual.key = usual.Key()
	if _, ok := t.store.Find(usual.key); !ok {
		return f
	}
	small := &firstRun{recipe: &usual}
	if disk > usual.DiskBytes {
		small.grow.Disk = disk
	}
	if overlay > usual.OverlayBytes {
		small.grow.Overlay = overlay
	}
	return small
}

// fork makes the disks in dir copies of the template's, if there is one, and
// notes it in f. It reports whether the disks are there: no template, a damaged
// one, and one that vanishes meanwhile, leave none.
func (t *templates) fork(ctx context.Context, f *firstRun, dir layout.Instance) bool {
	if f == nil {
		return false
	}
	found, ok := t.store.Look(f.recipe.key)
	if !ok {
		return false
	}
	// Not even its disks: what the guest wrote there may be cut off, too.
	if f.problem = found.Damaged; f.problem != "" {
		t.discard(found.Key, found.Created, f.problem)
		return false
	}
	if err := t.clone(ctx, dir, found); err != nil {
		t.log.Warn("a template is not used", "template", found.Key, "error", err)
		os.Remove(dir.Overlay())
		os.Remove(dir.Work())
		return false
	}
	f.template, f.made = found.Dir.Dir(), found.Created
	return true
}

// clone is copyDisks for a VM, whose start is noted.
func (t *templates) clone(ctx context.Context, dir layout.Instance, found template.Template) error {
	if err := t.copyDisks(ctx, dir, found); err != nil {
		return err
	}
	return t.store.Touch(found.Key)
}

// copyDisks makes the disks in dir copies of those of a template.
func (t *templates) copyDisks(ctx context.Context, dir layout.Instance, found template.Template) error {
	errs := make(chan error, 2)
	clone := func(dst, src string) {
		errs <- trace.Do(ctx, "clone a disk", func() error { return disk.Clone(ctx, dst, src) })
	}
	go clone(dir.Overlay(), found.Dir.Overlay())
	go clone(dir.Work(), found.Dir.Work())
	if err := errors.Join(<-errs, <-errs); err != nil {
		return err
	}
	if now, ok := t.store.Find(found.Key); !ok || !now.Created.Equal(found.Created) {
		return errors.New("it was removed, and maybe made anew, while its disks were copied")
	}
	return nil
}

// refork is fork for a VM that has disks already and has never run: they are
// replaced.
func (t *templates) refork(ctx context.Context, f *firstRun, dir layout.Instance) error {
	fresh := dir.NewDisks()
	defer os.RemoveAll(fresh.Dir())
	if err := os.Mkdir(fresh.Dir(), 0o700); err != nil {
		return err
	}
	if !t.fork(ctx, f, fresh) {
		return nil
	}
	return errors.Join(os.Rename(fresh.Overlay(), dir.Overlay()), os.Rename(fresh.Work(), dir.Work()))
}

// ready is told of a first run that became ready.
func (t *templates) ready(m *machine, f *firstRun) {
	if f == nil {
		return
	}
	rec := m.look().rec
	switch {
	case f.template != "" && rec.TemplateError == "":
		return
	case f.template != "":
		t.discard(f.recipe.key, f.made, rec.TemplateError)
	case f.problem != "":
	case !f.recipe.usual && t.count(t.runs, f.recipe.key) < 2:
		return
	}
	t.makeUnasked(f.recipe)
}

// failed is told of a first run that did not become ready, although it had the
// time to.
func (t *templates) failed(m *machine, f *firstRun) {
	if f != nil && f.template != "" {
		t.discard(f.recipe.key, f.made, "vm "+m.id+", which was started from it, did not become ready")
	}
}

// discard removes the template, made at some time, that VMs cannot be started
// from.
func (t *templates) discard(key string, made time.Time, reason string) {
	if now, ok := t.store.Look(key); !ok || !now.Created.Equal(made) {
		return // removed meanwhile: that was the reason
	}
	t.count(t.strikes, key)
	t.log.Warn("a template is removed: it cannot be used", "template", key, "reason", reason)
	if err := t.store.Remove(key); err != nil {
		t.log.Error("a template is not removed", "template", key, "error", err)
	}
}

// count adds one to what in counts a key has, and returns the sum.
func (t *templates) count(counts map[string]int, key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(counts) >= maxCounted {
		clear(counts)
	}
	counts[key]++
	return counts[key]
}
