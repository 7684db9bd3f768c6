package cli

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// completeWithin bounds a completion: a shell waits for it.
const completeWithin = 500 * time.Millisecond

// completionOptions are the arguments of completion.
type completionOptions struct {
	app   *App
	shell string
}

func (a *App) newCompletion(run func(context.Context, *cobra.Command, *completionOptions) error) *cobra.Command {
	opts := &completionOptions{app: a}
	if run == nil {
		run = runCompletion
	}
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion SHELL", Short: "Print completion for bash, zsh, fish or powershell", Args: exactly(1, "SHELL (bash, zsh, fish or powershell)"),
		Long: "Prints a script for the shell. Names of VMs, images and kernels come from the\n" +
			"running daemon; completing a word never starts it.",
		Example: examples("source <(banger completion bash)", "banger completion zsh > ~/.zfunc/_banger", "banger completion fish > ~/.config/fish/completions/banger.fish"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				shells = nil
			}
			return shells, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(shells, args[0]) {
				return usagef(cmd, "%q is not one of bash, zsh, fish, powershell", args[0])
			}
			opts.shell = args[0]
			return run(cmd.Context(), cmd, opts)
		},
	}
}

func runCompletion(_ context.Context, cmd *cobra.Command, opts *completionOptions) error {
	a, root := opts.app, cmd.Root()
	var script bytes.Buffer
	var err error
	switch opts.shell {
	case "bash":
		err = root.GenBashCompletionV2(&script, true)
	case "zsh":
		err = root.GenZshCompletion(&script)
	case "fish":
		err = root.GenFishCompletion(&script, true)
	case "powershell":
		err = root.GenPowerShellCompletionWithDesc(&script)
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"shell": opts.shell, "script": script.String()})
	}
	_, err = a.IO.Out.Write(script.Bytes())
	return err
}

// Which VMs a command can be about.
func anyState(banger.State) bool   { return true }
func active(s banger.State) bool   { return s.Active() }
func inactive(s banger.State) bool { return !s.Active() }
func running(s banger.State) bool  { return s == banger.StateRunning }
func paused(s banger.State) bool   { return s == banger.StatePaused }

// completer completes arguments.
type completer = func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective)

// completeVMs completes names of VMs in a state that fits, never one that has
// been given.
func (a *App) completeVMs(fits func(banger.State) bool) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, vm := range a.liveVMs(cmd.Context()) {
			given := slices.Contains(args, vm.Name) || slices.Contains(args, vm.Id)
			if fits(banger.State(vm.State)) && !given && banger.CheckName("vm", vm.Name) == nil {
				names = append(names, vm.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeOneVM completes the one NAME of a command.
func (a *App) completeOneVM(fits func(banger.State) bool) completer {
	several := a.completeVMs(fits)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return several(cmd, args, toComplete)
	}
}

func (a *App) liveVMs(ctx context.Context) []*bangerv1.VM {
	c, err := a.running()
	if err != nil {
		return nil
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	vms, _ := c.ListVMs(ctx) // no daemon: nothing to complete
	return vms
}

// completeFlag completes the values of a flag.
func (a *App) completeFlag(cmd *cobra.Command, flag string, values func(context.Context) []string) {
	complete := func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // the flag is there: the line above added it
	}
}

func (a *App) imageNames(ctx context.Context) []string {
	c, err := a.running()
	if err != nil {
		return nil
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	images, _ := c.ListImages(ctx, true)
	return names(images)
}

func (a *App) kernelNames(ctx context.Context) []string {
	c, err := a.running()
	if err != nil {
		return nil
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, completeWithin)
	defer cancel()
	kernels, _ := c.ListKernels(ctx, true)
	return names(kernels)
}

func names[T named](things []T) []string {
	var out []string
	for _, thing := range things {
		if name := thing.GetName(); banger.CheckName("image", name) == nil {
			out = append(out, name)
		}
	}
	return out
}
