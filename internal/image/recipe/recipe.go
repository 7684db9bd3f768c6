// Package recipe builds a root file system from Debian packages: it runs
// mmdebstrap, as root or as an ordinary user, and hands the tar stream of the
// result on while it is made. apt verifies every package. Packages that were
// downloaded are kept, also by a build that was interrupted, and serve the
// next.
package recipe

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/layout"
)

// Status is what a build does now.
type Status struct {
	// Detail is a sentence for a person, without its first capital.
	Detail string
	// Done and Total are bytes of a transfer; Total 0 means unknown.
	Done, Total int64
}

// Build is one run of a recipe.
type Build struct {
	Image catalog.Image
	// Mirror is the URL of a Debian archive. Empty: mmdebstrap's default with
	// its updates and security fixes.
	Mirror string
	// Debs keeps downloaded packages.
	Debs layout.Debs
	// Dir is the unfinished directory of the image. The build's records lie
	// there while it runs, for Sweep.
	Dir layout.Image
	Log *slog.Logger
	// Report takes the state of the build. It is never nil, may be called from
	// several goroutines, and not after Run has returned.
	Report func(Status)
}

const (
	// cleanupTime bounds the removal of what a build has on disk.
	cleanupTime = 10 * time.Second
	// drainTime is how long the pipes of a dead build may stay open.
	drainTime = 2 * time.Second
)

// Run builds the root file system. consume gets the tar stream and reads it to
// its end, beside the build; only when Run returns nil was the stream whole.
// When ctx ends, all processes of the build are killed and its files removed
// before Run returns. What is wrong with the host (a missing tool, no ids to
// map) is unavailable, with the command that mends it.
func (b *Build) Run(ctx context.Context, consume func(io.Reader) error) error {
	h, err := thisHost()
	if err != nil {
		return err
	}
	if err := h.check(); err != nil {
		return err
	}
	return b.runOn(ctx, h, consume)
}

func (b *Build) runOn(ctx context.Context, h host, consume func(io.Reader) error) (err error) {
	s, err := newScratch(b.Dir)
	if err != nil {
		return err
	}
	defer func() {
		detached, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
		defer stop()
		if sweepErr := Sweep(detached, b.Dir, b.Debs, b.Log); err == nil {
			err = sweepErr
		}
	}()
	if err := b.prepare(ctx, s); err != nil {
		return err
	}
	return b.execute(ctx, h, s, consume)
}

// keep takes the new packages that mmdebstrap has handed out, whole, into the
// cache; also when the build failed or was cancelled after that.
func (b *Build) keep(ctx context.Context, s scratch) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer stop()
	cache := debCache{b.Debs, b.Log}
	if err := cache.keep(ctx, s.fetched(), nil); err != nil {
		b.Log.Warn("fetched packages are not kept", "error", err)
	}
}

// prepare writes what the build reads.
func (b *Build) prepare(ctx context.Context, s scratch) error {
	if b.Mirror != "" && !validMirror.MatchString(b.Mirror) {
		return banger.Errorf(banger.CodeUsage, "mirror %q is not a URL", b.Mirror)
	}
	b.Report(Status{Detail: "looking for packages that are here"})
	cache := debCache{b.Debs, b.Log}
	if err := cache.stage(ctx, s.staged()); err != nil {
		return err
	}
	return s.write(b.Image.Files)
}

// execute runs mmdebstrap with consume beside it.
func (b *Build) execute(ctx context.Context, h host, s scratch, consume func(io.Reader) error) error {
	runCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p, err := newPipes(b.Dir.BuildLock())
	if err != nil {
		return err
	}
	defer p.closeOurs()

	exited := make(chan error, 1)
	cmd := b.command(runCtx, h, s)
	go func() { exited <- p.run(cmd) }()

	out := newOutput(b.Report, b.Log)
	read := make(chan struct{})
	go func() { defer close(read); out.follow(p.logR) }()

	consumed := make(chan error, 1)
	go func() {
		err := consume(&reportingReader{r: p.tarR, report: b.Report})
		if err != nil {
			cancel(err)
		}
		consumed <- err
	}()

	exitErr := <-exited
	if exitErr != nil {
		p.expire(time.Now().Add(drainTime))
	}
	consumeErr := <-consumed
	<-read
	if out.handedOut {
		b.keep(ctx, s)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return out.verdict(h, exitErr, consumeErr)
}

// command is mmdebstrap in its own process group.
func (b *Build) command(ctx context.Context, h host, s scratch) *exec.Cmd {
	argv := append(h.wrapper(), b.arguments(h, s)...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/" // the mapped user may not enter ours
	cmd.Env = append(h.environment(ctx), "TMPDIR="+string(s))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// pipes are the ends of what the build writes, the lock that it holds, and the
// pipe whose end tells it that we are gone.
type pipes struct {
	tarR, tarW, logR, logW, goneR, goneW, lock *os.File
}

func newPipes(lockPath string) (*pipes, error) {
	p := &pipes{}
	var err error
	if p.lock, err = holdLock(lockPath); err != nil {
		return nil, err
	}
	if p.tarR, p.tarW, err = os.Pipe(); err == nil {
		p.logR, p.logW, err = os.Pipe()
	}
	if err == nil {
		p.goneR, p.goneW, err = os.Pipe()
	}
	if err != nil {
		p.closeTheirs()
		p.closeOurs()
		return nil, err
	}
	return p, nil
}

// run runs cmd to its end.
func (p *pipes) run(cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = p.tarW, p.logW
	cmd.ExtraFiles = []*os.File{p.lock, p.goneR} // fd 3 and 4
	err := cmd.Start()
	p.closeTheirs()
	if err != nil {
		return fmt.Errorf("start mmdebstrap: %w", err)
	}
	return cmd.Wait()
}

func (p *pipes) closeTheirs() { closeAll(p.tarW, p.logW, p.goneR, p.lock) }

func (p *pipes) closeOurs() { closeAll(p.tarR, p.logR, p.goneW) }

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// expire ends reads at t, should a process that escaped keep a pipe open.
func (p *pipes) expire(t time.Time) {
	_ = p.tarR.SetReadDeadline(t)
	_ = p.logR.SetReadDeadline(t)
}

// reportEvery is the number of bytes between two reports of a stream.
const reportEvery = 16 << 20

// reportingReader reports how much of the tar stream was read.
type reportingReader struct {
	r        io.Reader
	report   func(Status)
	n, shown int64
}

func (r *reportingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	if r.n-r.shown >= reportEvery {
		r.shown = r.n
		r.report(Status{Detail: "writing the file system", Done: r.n})
	}
	return n, err
}
