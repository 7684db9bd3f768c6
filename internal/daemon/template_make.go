package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/template"
)

const (
	// makerGrace is how long a maker that is told to give up may take: it ends
	// its VMM.
	makerGrace = 15 * time.Second
	// spareBytes must be left when a template is made, beside all the guest's
	// memory.
	spareBytes = banger.GiB
	// idleNice is the priority of what nobody waits for, makerWords how much of
	// the end of a maker's log is read.
	idleNice   = 19
	makerWords = 8 << 10
)

// The steps of the making of a template, as fault.Point names them.
const (
	stepPrepare  = "template.prepare"  // the unfinished directory is about to be made
	stepPrepared = "template.prepared" // its disks and spec are made
	stepFrozen   = "template.frozen"   // the guest is frozen in it
	stepPublish  = "template.publish"  // it is whole, and about to get its name
	// PointPublished: it has its name, and others may have to go for it.
	PointPublished = "template.published"
)

// TemplateFaultPoints are the steps up to the name, in the order they are passed.
func TemplateFaultPoints() []string {
	return []string{stepPrepare, stepPrepared, stepFrozen, stepPublish}
}

// makeUnasked makes a template beside everything else, at the lowest priority,
// unless something speaks against it now: the next run asks again.
func (t *templates) makeUnasked(r *recipe) {
	select {
	case <-t.turn:
	default:
		return // one at a time
	}
	t.d.work.Go(func() {
		defer func() { t.turn <- struct{}{} }()
		if reason := t.against(r); reason != "" {
			t.log.Info("a template is not made now", "image", r.Image, "reason", reason)
			return
		}
		if err := t.make(t.d.life, r, idleNice); err != nil && t.d.life.Err() == nil {
			t.count(t.strikes, r.key)
			t.log.Warn("a template is not made", "image", r.Image, "error", err)
		}
		t.d.spares.look()
	})
}

// against says what speaks against making a template that nobody waits for.
func (t *templates) against(r *recipe) string {
	if _, ok := t.store.Find(r.key); ok {
		return "it is there"
	}
	t.mu.Lock()
	strikes := t.strikes[r.key]
	t.mu.Unlock()
	if strikes >= maxStrikes {
		return "it has failed too often"
	}
	if err := t.checkSpace(r); err != nil {
		return err.Error()
	}
	load, err := t.d.opts.Load()
	if err == nil && load > float64(t.d.opts.Host.CPUs+1) {
		return fmt.Sprintf("the host is busy: load %.1f", load)
	}
	return ""
}

func (t *templates) checkSpace(r *recipe) error {
	free, err := t.d.opts.Assets.Free(t.d.opts.Home.State)
	if need := r.MemoryMiB*banger.MiB + spareBytes; err == nil && free < need {
		return banger.Errorf(banger.CodeUnavailable, "a template of image %q may take %s, and %s has %s left", r.Image,
			banger.FormatSize(need), t.d.opts.Home.State, banger.FormatSize(free)).WithHint("banger template prune --all, or less --memory")
	}
	return err
}

// ensure makes the template of r, unless it is there, and waits for it.
func (t *templates) ensure(ctx context.Context, r *recipe, to *reporter) error {
	if _, ok := t.store.Find(r.key); ok {
		return nil
	}
	wait := func() error {
		select {
		case <-t.turn:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := to.during("wait", "another template is being made", wait); err != nil {
		return err
	}
	defer func() { t.turn <- struct{}{} }()
	if _, ok := t.store.Find(r.key); ok {
		return nil
	}
	if err := t.checkSpace(r); err != nil {
		return err
	}
	err := to.during("template", "booting a guest and freezing it", func() error { return t.make(ctx, r, 0) })
	if err == nil {
		t.mu.Lock()
		delete(t.strikes, r.key)
		t.mu.Unlock()
	}
	return err
}

// make makes the template of r. The caller has the turn.
//
//	prepare: disks and spec → maker: boot, warm, freeze → manifest → name
//
// Up to the name all is in an unfinished directory, which an error, and the
// next start of a daemon that was killed, removes.
func (t *templates) make(ctx context.Context, r *recipe, nice int) (err error) {
	lock, err := lockfile.Acquire(ctx, t.d.opts.Home.TemplatesLock(), nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	began, dir := time.Now(), t.store.Unfinished(r.key)
	defer func() {
		if err != nil {
			err = errors.Join(t.explain(r, err), t.clear(ctx, dir))
		}
	}()
	if err := t.clear(ctx, dir); err != nil {
		return err
	}
	if err := t.prepare(ctx, r, dir); err != nil {
		return err
	}
	if err := t.runMaker(ctx, dir, nice); err != nil {
		return err
	}
	if err := t.publish(ctx, r, dir, nice); err != nil {
		return err
	}
	t.log.Info("a template is made", "template", r.key, "image", r.Image, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// clear removes an unfinished directory with all that works in it.
func (t *templates) clear(ctx context.Context, dir layout.Instance) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return template.Clear(ctx, dir, t.d.ours)
}

// explain gives errors that a person may see their words.
func (t *templates) explain(r *recipe, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return banger.Errorf(banger.CodeUnavailable, "the template of image %q is not made: no space left in %s", r.Image, t.d.opts.Home.State).
			WithHint("banger template prune --all")
	}
	if known, ok := errors.AsType[*banger.Error](err); ok {
		return known
	}
	return banger.Errorf(banger.CodeFailed, "the template of image %q is not made: %w", r.Image, err).WithHint("banger daemon logs")
}

// prepare makes the directory like that of a VM which belongs to nobody.
func (t *templates) prepare(ctx context.Context, r *recipe, dir layout.Instance) error {
	if err := fault.Point(stepPrepare); err != nil {
		return err
	}
	if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
		return err
	}
	if err := t.d.newDisks(ctx, dir, r.OverlayBytes, r.DiskBytes); err != nil {
		return err
	}
	nobody := store.VM{ID: "template", Name: "template", VCPU: r.VCPU, MemoryMiB: r.MemoryMiB}
	spec, err := t.d.spec(nobody, r.parts)
	if err != nil {
		return err
	}
	network, err := guestNetwork()
	if err != nil {
		return err
	}
	spec.OverlayDisk, spec.WorkDisk = dir.Overlay(), dir.Work()
	spec.Boot, err = proto.Marshal(&agentv1.Boot{
		Id: nobody.ID, Hostname: nobody.Name, MachineId: banger.NewID(), Network: network, Template: true,
	})
	if err != nil {
		return err
	}
	if err := writeSpec(dir, spec, false); err != nil {
		return err
	}
	return fault.Point(stepPrepared)
}

// publish makes what was frozen a template, if it fits, and others go for it.
func (t *templates) publish(ctx context.Context, r *recipe, dir layout.Instance, nice int) error {
	if err := fault.Point(stepFrozen); err != nil {
		return err
	}
	limit, err := t.limit()
	if err != nil {
		return err
	}
	size, err := template.Size(dir)
	if err != nil {
		return err
	}
	if size > limit {
		return banger.Errorf(banger.CodeUnavailable, "the template of image %q takes %s, and all together may take %s", r.Image,
			banger.FormatSize(size), banger.FormatSize(limit)).WithHint("template_cache_size = \"8G\" in %s", t.d.opts.Home.ConfigFile())
	}
	r.Created = time.Now().UTC()
	// All of it is read and written: some 100 ms.
	if err := atPriority(nice, func() error { return t.store.Seal(ctx, r.Manifest) }); err != nil {
		return err
	}
	if err := fault.Point(stepPublish); err != nil {
		return err
	}
	if err := t.store.Publish(r.key); err != nil {
		return err
	}
	t.evict(limit, r)
	return nil
}

// evict has older templates go for that of r. One too many is no reason to do
// without it.
func (t *templates) evict(limit int64, r *recipe) {
	if err := fault.Point(PointPublished); err != nil {
		t.log.Error("templates take more than they may", "error", err)
		return
	}
	removed, err := t.store.Evict(limit, r.key)
	for _, old := range removed {
		t.log.Info("a template is removed: the space is needed", "template", old.Key, "image", old.Image)
	}
	if err != nil {
		t.log.Error("templates take more than they may", "error", err)
	}
}

// limit is what all templates may take, in bytes.
func (t *templates) limit() (int64, error) {
	cfg, err := t.d.opts.Config()
	if err != nil {
		return 0, err
	}
	return template.Limit(cfg.TemplateCacheBytes(), t.d.opts.Home.State)
}

// runMaker runs banger-vm template to its end. It gives up when ctx ends, and
// when the daemon dies.
func (t *templates) runMaker(ctx context.Context, dir layout.Instance, nice int) error {
	// In no file: that its disk is full is one of the things it has to say. And
	// no pipe, which would end with this daemon, and the maker with that.
	words, err := anonymousFile("maker")
	if err != nil {
		return err
	}
	defer words.Close()
	cmd := exec.CommandContext(ctx, t.d.opts.Supervisor, "template", dir.Dir())
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", words, words
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = makerGrace
	err = atPriority(nice, cmd.Run)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		t.log.Info("the maker of a template is done", "log", strings.TrimSpace(makerLog(words)))
		return nil
	}
	said := makerSaid(words)
	t.log.Warn("the maker of a template failed", "ended", err, "said", said)
	if first := firstCause(said); first != "" {
		return errors.New(first)
	}
	return fmt.Errorf("its maker ended: %w", err)
}

// atPriority runs f, and what it starts, on a thread of its own: a priority that
// was given up cannot be had back, and the death signal of a child comes when the
// thread that forked it ends. The thread ends with f.
func atPriority(nice int, f func() error) error {
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setpriority(unix.PRIO_PROCESS, 0, nice); nice > 0 && err != nil {
			ended <- err
			return
		}
		ended <- f()
	}()
	return <-ended
}

// firstCause is the first line of what a maker said, without its advice: that is
// about a directory which is about to be removed.
func firstCause(said string) string {
	line, _, _ := strings.Cut(said, "\n")
	cause, _, _ := strings.Cut(line, "; try: ")
	return cause
}

// anonymousFile is a file in memory. What is written goes to its end.
func anonymousFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_APPEND); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// makerLog is the end of what a maker wrote.
func makerLog(words *os.File) string {
	info, err := words.Stat()
	if err != nil {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(words, max(0, info.Size()-makerWords), makerWords))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(data), "?")
}

// makerSaid is what a maker said of its failure.
func makerSaid(words *os.File) string {
	text := "\n" + makerLog(words)
	if i := strings.LastIndex(text, "\n"+layout.Supervisor+": "); i >= 0 {
		return strings.TrimSpace(text[i+len(layout.Supervisor)+3:])
	}
	return ""
}
