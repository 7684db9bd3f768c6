package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/trace"
)

// maxTrace is how many spans of all processes together a trace holds.
const maxTrace = 8 * trace.MaxSpans

// tracing is the trace of this command.
type tracing struct {
	recorder *trace.Recorder
	// born is when this process was started, which is the trace's time 0.
	born    int64
	command trace.Mark
}

// beginTrace starts the trace that --trace asks for. What cannot become its file
// is found now, before anything is done.
func (a *App) beginTrace(cmd *cobra.Command) error {
	if a.traceFile == "" {
		return nil
	}
	born := trace.ProcessStart()
	if err := traceable(a.traceFile); err != nil {
		return banger.Errorf(banger.CodeUsage, "--trace %s: %w", a.traceFile, err).WithHint("a file in a directory that you can write")
	}
	t := &tracing{recorder: trace.NewRecorder("banger", maxTrace), born: born}
	t.recorder.Begin("process start, flags").Since(born)
	t.command = t.recorder.Begin(cmd.CommandPath())
	a.tracing = t
	cmd.SetContext(trace.With(cmd.Context(), t.recorder))
	return nil
}

// traceable says why a file cannot be written in one step.
func traceable(path string) error {
	if err := unix.Access(filepath.Dir(path), unix.W_OK|unix.X_OK); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errors.New("it is not an ordinary file")
	}
	return nil
}

// askSpans has the daemon bring what the VM's supervisor has recorded, if this
// command is traced.
func (a *App) askSpans(ctx context.Context, id string) {
	if a.tracing == nil || a.client == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer cancel()
	// A VM that is gone meanwhile has nothing to tell; the rest is a trace, too.
	_, _ = a.client.GetVM(ctx, id)
}

// endTrace writes the trace, if there is one, and returns the exit code: that of
// the command, unless that was 0 and the trace cannot be written.
func (a *App) endTrace(code int) int {
	t := a.tracing
	if t == nil {
		return code
	}
	t.command.End()
	data, err := trace.File(t.recorder.Close(), t.born)
	if err == nil {
		err = atomicfile.Write(a.traceFile, data, 0o644)
	}
	if err == nil {
		return code
	}
	failed := a.finish(a.current, banger.Errorf(banger.CodeFailed, "the trace is not written: %w", err).WithHint("--trace with a file elsewhere"))
	if code != 0 {
		return code
	}
	return failed
}
