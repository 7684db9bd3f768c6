package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client/guestexec"
	"github.com/banger-dev/banger/internal/cli/tty"
)

// guestOptions are the flags of a command in a guest, of vm run and vm exec.
type guestOptions struct {
	env         []string
	envFile     string
	workdir     string
	user        string
	interactive bool
	tty         bool
	ttySet      bool
	timeLimit   string
	argv        []string
}

// addFlags adds the flags to cmd.
func (o *guestOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&o.env, "env", "e", nil, "set K=V in the command's environment; K alone copies it (repeatable)")
	flags.StringVar(&o.envFile, "env-file", "", "read the environment from a `file` of K=V lines")
	flags.StringVarP(&o.workdir, "workdir", "w", "", "working `directory` in the guest (default the user's home)")
	flags.StringVarP(&o.user, "user", "u", "", "run as this user, by name or number, user:group (default root)")
	flags.BoolVarP(&o.interactive, "interactive", "i", true, "pass stdin on; with -i=false the command reads end-of-file")
	flags.BoolVarP(&o.tty, "tty", "t", false, "use a terminal in the guest (default if stdin and stdout are terminals)")
	flags.StringVar(&o.timeLimit, "time-limit", "", "end the command after this `time`, as 90s or 2h: SIGTERM, SIGKILL 5 s later, exit code 124")
}

// take reads what the flags and the arguments after -- say.
func (o *guestOptions) take(cmd *cobra.Command, argv []string) {
	o.ttySet = cmd.Flags().Changed("tty")
	o.argv = argv
}

// splitDash divides the arguments at --.
func splitDash(cmd *cobra.Command, args []string) (before, after []string, dash bool) {
	at := cmd.ArgsLenAtDash()
	if at < 0 {
		return args, nil, false
	}
	return args[:at], args[at:], true
}

// environment is what the command gets, the file first.
func (o *guestOptions) environment(a *App, withTTY bool) ([]string, error) {
	var env []string
	if term := a.Getenv("TERM"); withTTY && term != "" {
		env = append(env, "TERM="+term)
	}
	var lines []string
	if o.envFile != "" {
		data, err := os.ReadFile(o.envFile)
		if err != nil {
			return nil, banger.Errorf(banger.CodeUsage, "--env-file: %w", err).WithHint("a file of K=V lines")
		}
		scanner := bufio.NewScanner(bytes.NewReader(data))
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		if err := scanner.Err(); err != nil {
			return nil, banger.Errorf(banger.CodeUsage, "--env-file %s: %w", o.envFile, err)
		}
	}
	for _, entry := range append(lines, o.env...) {
		pair, ok, err := a.envPair(entry)
		if err != nil {
			return nil, err
		}
		if ok {
			env = append(env, pair)
		}
	}
	return env, nil
}

// envPair completes K from our own environment; a K that is not set there is
// left out.
func (a *App) envPair(entry string) (pair string, ok bool, err error) {
	name, _, found := strings.Cut(entry, "=")
	if name == "" || strings.ContainsAny(entry, "\x00") || !utf8.ValidString(entry) {
		return "", false, banger.Errorf(banger.CodeUsage, "environment %q is not K=V", entry).WithHint("-e NAME=value, or -e NAME to copy it")
	}
	if found {
		return entry, true, nil
	}
	for _, kv := range a.Environ {
		if strings.HasPrefix(kv, name+"=") {
			return kv, true, nil
		}
	}
	return "", false, nil
}

// useTTY says whether the guest's end is a terminal.
func (o *guestOptions) useTTY(a *App) (bool, error) {
	if a.json {
		if o.ttySet && o.tty {
			return false, banger.Errorf(banger.CodeUsage, "--json collects the output and cannot use a terminal").WithHint("leave out -t")
		}
		return false, nil
	}
	if o.ttySet {
		return o.tty, nil
	}
	return a.IO.InTTY && a.IO.OutTTY && o.interactive, nil
}

// guestRun is a command in a guest, ready to run.
type guestRun struct {
	app    *App
	vm     *bangerv1.VM
	dial   guestexec.Dial
	cmd    guestexec.Command
	output *collected
	// started is set when the command ran.
	started bool
}

// prepare checks the flags, before anything is asked of the daemon.
func (o *guestOptions) prepare(a *App) (*guestRun, error) {
	withTTY, err := o.useTTY(a)
	if err != nil {
		return nil, err
	}
	for _, arg := range o.argv {
		if !utf8.ValidString(arg) || strings.ContainsRune(arg, 0) {
			return nil, banger.Errorf(banger.CodeUsage, "argument %q is not valid UTF-8 without NUL", arg).WithHint("pass it on stdin")
		}
	}
	limit, err := parseSpan("--time-limit", o.timeLimit)
	if err != nil {
		return nil, err
	}
	env, err := o.environment(a, withTTY)
	if err != nil {
		return nil, err
	}
	g := &guestRun{app: a, cmd: guestexec.Command{
		Argv: o.argv, Shell: len(o.argv) == 0, Env: env, Dir: o.workdir, User: o.user, TTY: withTTY,
		Stdout: a.IO.Out, Stderr: a.IO.Err, TimeLimit: limit,
	}}
	if o.interactive {
		g.cmd.Stdin = a.IO.In
	}
	if a.json {
		g.output = &collected{}
		g.cmd.Stdout, g.cmd.Stderr = &g.output.stdout, &g.output.stderr
	}
	return g, nil
}

// attach says where the guest is.
func (g *guestRun) attach(vm *bangerv1.VM, dial func(context.Context) (net.Conn, error)) {
	g.vm, g.dial = vm, dial
}

// run runs the command. From its start on, signals are the guest's; the
// terminal is in raw mode from then until run returns.
func (g *guestRun) run(ctx context.Context) (guestexec.Exit, error) {
	a := g.app
	if f, ok := g.cmd.Stdin.(*os.File); ok {
		input, err := tty.NewInput(f)
		if err != nil {
			return guestexec.Exit{}, err
		}
		defer input.Close()
		g.cmd.Stdin = input
	}
	if g.cmd.TTY {
		cols, rows := a.IO.Size()
		g.cmd.Size = guestexec.Size{Rows: rows, Cols: cols}
		g.cmd.Resize = a.signals.resize
	}
	g.cmd.Signals = a.signals.forward
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.cmd.OnStart = func() {
		if !a.signals.enter(commanding) {
			cancel(errInterrupted())
			return
		}
		g.started = true
		if g.cmd.TTY && a.IO.InTTY && g.cmd.Stdin != nil {
			if err := a.IO.Raw(); err != nil {
				cancel(fmt.Errorf("terminal: %w", err))
			}
		}
	}
	defer a.signals.enter(leaving)
	defer a.IO.Restore()
	exit, err := guestexec.Run(ctx, g.dial, g.cmd)
	a.askSpans(ctx, g.vm.GetId())
	return exit, err
}

// report turns the end of the command into that of banger; with --json it
// prints the document.
func (g *guestRun) report(exit guestexec.Exit, err error) error {
	if err != nil {
		return describeExecError(g.vm, err)
	}
	if g.output != nil {
		if err := g.app.printJSON(g.output.view(g.vm, exit)); err != nil {
			return err
		}
	}
	if exit.TimeOver {
		return timeOver(g.vm, g.cmd.TimeLimit, exit)
	}
	return withCode(exit.Code)
}
