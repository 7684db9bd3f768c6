package cli

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	banger "github.com/banger-dev/banger"
)

// The groups of banger --help.
const (
	groupVMs    = "vms"
	groupImages = "images"
	groupHost   = "host"
)

// Run runs one command line and returns the exit code.
func (a *App) Run(args []string) (code int) {
	defer a.IO.Restore()
	defer func() {
		if p := recover(); p != nil {
			a.IO.Restore()
			code = a.finish(a.current, banger.Errorf(banger.CodeFailed, "internal error: %v (%s)", p, origin()))
		}
	}()
	ctx, s := a.watchSignals(context.Background())
	defer s.close()
	a.signals = s
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if a.client != nil {
		defer a.client.Close()
	}
	return a.endTrace(a.finish(cmd, usage(cmd, err)))
}

// origin is where a panic came from.
func origin() string {
	var callers [32]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers[:])])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", frame.File, frame.Line)
		}
	}
}

// usage gives errors of the command line itself their code. They come from
// cobra, before a run function is called, as plain errors.
func usage(cmd *cobra.Command, err error) error {
	var flagErr *usageError
	if errors.As(err, &flagErr) {
		return banger.Errorf(banger.CodeUsage, "%w", flagErr.err).WithHint("%s --help", flagErr.cmd)
	}
	if err != nil && strings.HasPrefix(err.Error(), "unknown command ") {
		text, _, _ := strings.Cut(err.Error(), "\n")
		return banger.Errorf(banger.CodeUsage, "%s", text).WithHint("%s --help", cmd.CommandPath())
	}
	return err
}

// usageError is a command line that does not fit the command.
type usageError struct {
	cmd string
	err error
}

func (e *usageError) Error() string { return e.err.Error() }

// usagef makes a usage error of cmd.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{cmd.CommandPath(), fmt.Errorf(format, args...)}
}

// root builds the tree of commands.
func (a *App) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Short: "Disposable virtual machines, with no root and no setup",
		Long: "banger runs disposable virtual machines: no root, no account, no container engine.\n" +
			"It uses KVM where it works, and emulation where it does not.",
		Example: examples(
			"banger run --rm -- uname -a      # one command in a fresh VM",
			"banger run                       # a shell in a fresh VM",
			"banger exec dev -- make test     # a command in a running VM",
			"banger ps -a                     # every VM"),
		SilenceUsage: true, SilenceErrors: true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.current = cmd
			if _, err := a.form(); err != nil {
				return err
			}
			return a.beginTrace(cmd)
		},
		RunE: groupRun, DisableFlagsInUseLine: true,
		Args: cobra.ArbitraryArgs,
	}
	root.SetIn(a.IO.In)
	root.SetOut(a.IO.Out)
	root.SetErr(a.IO.Err)
	root.AddGroup(&cobra.Group{ID: groupVMs, Title: "VMs:"},
		&cobra.Group{ID: groupImages, Title: "Images, kernels and templates:"},
		&cobra.Group{ID: groupHost, Title: "Host:"})
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print one JSON document (JSON lines for what streams)")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print ids or names only, no progress")
	flags.StringVar(&a.progress, "progress", "auto", "progress on stderr: auto, plain, json or none")
	flags.StringVar(&a.traceFile, "trace", "", "write what took how long to a `file`, for ui.perfetto.dev")
	root.SetFlagErrorFunc(flagProblem)
	root.SetHelpCommand(newHelp(root))
	a.addCommands(root)
	return root
}

// flagProblem is the error of a flag. A value that Go's parsers refuse is told
// without their names.
func flagProblem(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		kind := map[string]string{"int": "a number", "duration": "a time such as 90s or 5m", "bool": "true or false"}[invalid.GetFlag().Value.Type()]
		if kind != "" {
			err = fmt.Errorf("--%s %q is not %s", invalid.GetFlag().Name, invalid.GetValue(), kind)
		}
	}
	return &usageError{cmd.CommandPath(), err}
}

// newHelp is banger help.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{Use: "help [COMMAND]", Short: "Show the help of a command", GroupID: groupHost, RunE: func(cmd *cobra.Command, args []string) error {
		target, _, err := root.Find(args)
		if err != nil {
			return usagef(root, "unknown help topic %q", strings.Join(args, " "))
		}
		target.InitDefaultHelpFlag()
		return target.Help()
	}}
}

// addCommands adds every command, in the order of the help.
func (a *App) addCommands(root *cobra.Command) {
	in := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	list := a.newVMList(nil)
	list.Use, list.Aliases = "ps", nil
	remove := a.newVMDelete(nil)
	remove.Use, remove.Aliases = "rm NAME...", nil
	in(groupVMs, a.newVMRun(nil), a.newVMExec(nil), a.newVMSSH(nil), list, a.newVMStop(nil), remove, a.newVMLogs(nil), a.newVMCp(nil), a.newVM(), a.newSSHConfig(nil), a.newHosts(nil))
	in(groupImages, a.newImage(), a.newKernel(), a.newTemplate())
	in(groupHost, a.newDoctor(nil), a.newDf(nil), a.newDaemon(), a.newCompletion(nil), a.newVersion(nil))
	root.AddCommand(a.newInternal())
}

// newVM is the group of commands on VMs.
func (a *App) newVM() *cobra.Command {
	cmd := newGroup("vm", "Work with VMs", "banger vm create --name dev", "banger vm list -a", "banger vm delete -f dev")
	cmd.AddCommand(a.newVMRun(nil), a.newVMCreate(nil), a.newVMStart(nil), a.newVMStop(nil), a.newVMRestart(nil),
		a.newVMKill(nil), a.newVMPause(nil), a.newVMResume(nil), a.newVMSet(nil), a.newVMPrune(nil), a.newVMHealth(nil), a.newVMStats(nil), a.newVMCp(nil),
		a.newVMDelete(nil), a.newVMList(nil), a.newVMShow(nil), a.newVMLogs(nil), a.newVMExec(nil), a.newVMSSH(nil), a.newVMWait(nil), a.newVMPorts(nil), a.newVMPolicy())
	return cmd
}

// newGroup is a command that only holds others.
func newGroup(name, short string, lines ...string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, DisableFlagsInUseLine: true, Example: examples(lines...), RunE: groupRun, Args: cobra.ArbitraryArgs}
}

// groupRun shows the help of a command that only holds others, or says that
// there is no such command.
func groupRun(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	err := fmt.Errorf("%q is not a command of %s", args[0], cmd.CommandPath())
	if deeper := inGroups(cmd, args[0]); len(deeper) > 0 {
		return banger.Errorf(banger.CodeUsage, "%w", err).WithHint("%s", strings.Join(deeper, ", or "))
	}
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		for i, name := range near {
			near[i] = cmd.CommandPath() + " " + name
		}
		return banger.Errorf(banger.CodeUsage, "%w", err).WithHint("%s", strings.Join(near, ", or "))
	}
	return &usageError{cmd.CommandPath(), err}
}

// inGroups are the commands called name one level below those of cmd, that of
// VMs first.
func inGroups(cmd *cobra.Command, name string) (paths []string) {
	for _, group := range cmd.Commands() {
		found, _, err := group.Find([]string{name})
		switch {
		case err != nil || found == group:
		case group.Name() == "vm":
			paths = append([]string{found.CommandPath()}, paths...)
		default:
			paths = append(paths, found.CommandPath())
		}
	}
	return paths
}

func examples(lines ...string) string { return "  " + strings.Join(lines, "\n  ") }

// exactly wants n arguments, which are called what.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < n:
			return usagef(cmd, "%s is missing", what)
		case len(args) > n:
			return usagef(cmd, "%q is one argument too many", args[n])
		}
		return nil
	}
}

// some wants one argument or more.
func some(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef(cmd, "%s is missing", what)
		}
		return nil
	}
}

// none wants no arguments.
func none(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef(cmd, "%s takes no arguments, and got %q", cmd.CommandPath(), args[0])
	}
	return nil
}
