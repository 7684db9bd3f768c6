// Package cli is the banger command. A command is an Options struct, a
// constructor that takes the run function, and that function, one file each;
// streams are injected, and exit codes are decided in one place (exit.go).
package cli

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/client"
	"github.com/banger-dev/banger/internal/cli/progress"
	"github.com/banger-dev/banger/internal/cli/tty"
	"github.com/banger-dev/banger/internal/layout"
)

// IOStreams are a command's streams and what is known of them.
type IOStreams struct {
	In       io.Reader
	Out, Err io.Writer
	// InTTY, OutTTY and ErrTTY say which of them are terminals.
	InTTY, OutTTY, ErrTTY bool
	// Size is the terminal's size; zeros if it is not known.
	Size func() (cols, rows int)
	// Raw and Restore change the mode of In's terminal.
	Raw     func() error
	Restore func()
}

// App is what all commands share: the world as they see it, and the flags that
// each of them has.
type App struct {
	IO IOStreams
	// Getenv and Environ are the environment.
	Getenv  func(string) string
	Environ []string
	// Self is the path of this program.
	Self string
	// Companion finds another program of this build.
	Companion func(name string) (string, error)
	// Notify delivers the signals that banger handles until stop is called.
	Notify func(chan<- os.Signal) (stop func())
	// HardExit ends the process at once.
	HardExit func(code int)
	// Command runs a program of the host with the streams of IO; it returns
	// its exit code.
	Command func(ctx context.Context, path string, args ...string) (int, error)
	Now     func() time.Time
	// LookupHost finds a name as this host's programs do.
	LookupHost func(ctx context.Context, name string) ([]string, error)

	json     bool
	quiet    bool
	progress string
	// traceFile and tracing are those of --trace.
	traceFile string
	tracing   *tracing

	home    layout.Home
	client  *client.Client
	signals *signals
	current *cobra.Command
}

// Main runs banger with the process's own streams and returns its exit code.
func Main(args []string) int {
	terminal := tty.New(os.Stdin)
	app := &App{
		IO: IOStreams{
			In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
			InTTY: tty.IsTerminal(os.Stdin), OutTTY: tty.IsTerminal(os.Stdout), ErrTTY: tty.IsTerminal(os.Stderr),
			Size: terminalSize, Raw: terminal.Raw, Restore: terminal.Restore,
		},
		Getenv: os.Getenv, Environ: os.Environ(), Self: self(),
		Companion: layout.Companion, Notify: notify, HardExit: os.Exit,
		Command: runProgram, Now: time.Now, LookupHost: net.DefaultResolver.LookupHost,
	}
	return app.Run(args)
}

func self() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "banger"
}

// terminalSize asks whichever stream is a terminal.
func terminalSize() (cols, rows int) {
	for _, f := range []*os.File{os.Stdout, os.Stderr, os.Stdin} {
		if cols, rows, err := tty.Size(f); err == nil {
			return cols, rows
		}
	}
	return 0, 0
}

// handled are the signals that have a meaning for a command.
func handled() []os.Signal {
	return []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH, syscall.SIGPIPE}
}

func notify(ch chan<- os.Signal) (stop func()) {
	signal.Notify(ch, handled()...)
	return func() { signal.Stop(ch) }
}

// runProgram runs a program with the process's own streams. Its exit code is
// no error.
func runProgram(ctx context.Context, path string, args ...string) (int, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if state := cmd.ProcessState; state != nil {
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return 128 + int(status.Signal()), nil
		}
		return state.ExitCode(), nil
	}
	return 0, err
}

// Home returns the user's directories.
func (a *App) Home() (layout.Home, error) {
	if a.home != (layout.Home{}) {
		return a.home, nil
	}
	home, err := layout.FromEnv(a.Getenv)
	a.home = home
	return home, err
}

// Client returns the client of the daemon, which the first call starts.
func (a *App) Client() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	home, err := a.Home()
	if err != nil {
		return nil, err
	}
	a.client = client.New(home, client.Options{OnAnswer: a.compareBuilds})
	return a.client, nil
}

// running returns a client that never starts a daemon.
func (a *App) running() (*client.Client, error) {
	home, err := a.Home()
	if err != nil {
		return nil, err
	}
	return client.New(home, client.Options{NoStart: true}), nil
}

// form is how progress is shown.
func (a *App) form() (progress.Form, error) {
	switch a.progress {
	case "json":
		return progress.JSON, nil
	case "none":
		return progress.Silent, nil
	case "plain":
		return progress.Plain, nil
	case "", "auto":
	default:
		return "", banger.Errorf(banger.CodeUsage, "--progress %q is not one of auto, plain, json, none", a.progress)
	}
	switch {
	case a.quiet:
		return progress.Silent, nil
	case a.IO.ErrTTY && a.Getenv("TERM") != "dumb":
		return progress.Live, nil
	}
	return progress.Plain, nil
}

// reporter shows progress of work on one object; the caller closes it.
func (a *App) reporter(label string) (*progress.Reporter, error) {
	form, err := a.form()
	if err != nil {
		return nil, err
	}
	if label != "" && form == progress.Live {
		form = progress.Plain // several at once share one terminal
	}
	width := func() int { cols, _ := a.IO.Size(); return cols }
	return progress.New(a.IO.Err, form, label, width), nil
}
