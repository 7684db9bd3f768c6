package cli

import (
	"context"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmPauseOptions are the arguments of vm pause and vm resume.
type vmPauseOptions struct {
	app    *App
	refs   []string
	resume bool
}

func (a *App) newVMPause(run func(context.Context, *vmPauseOptions) error) *cobra.Command {
	return a.pauseCommand(&vmPauseOptions{app: a}, run, &cobra.Command{
		Use: "pause NAME...", Short: "Have VMs stand still: no processor time, memory kept",
		Long: "The guest stands still until banger vm resume, also over a restart of the daemon.\n" +
			"Commands and sessions in it go on then, and its clock is set to the host's.\n" +
			"Network connections of the guest may time out at their other end.",
		Example:           examples("banger vm pause dev", "banger vm pause $(banger ps -q)"),
		ValidArgsFunction: a.completeVMs(running),
	})
}

func (a *App) newVMResume(run func(context.Context, *vmPauseOptions) error) *cobra.Command {
	return a.pauseCommand(&vmPauseOptions{app: a, resume: true}, run, &cobra.Command{
		Use: "resume NAME...", Short: "Let paused VMs go on",
		Example:           examples("banger vm resume dev"),
		ValidArgsFunction: a.completeVMs(paused),
	})
}

func (a *App) pauseCommand(opts *vmPauseOptions, run func(context.Context, *vmPauseOptions) error, cmd *cobra.Command) *cobra.Command {
	if run == nil {
		run = runVMPause
	}
	cmd.Args = some("NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts.refs = args
		return run(cmd.Context(), opts)
	}
	return cmd
}

func runVMPause(ctx context.Context, opts *vmPauseOptions) error {
	stage, change := "pausing", (*App).pauseVM
	if opts.resume {
		stage, change = "resuming", (*App).resumeVM
	}
	return opts.app.eachBusy(ctx, stage, opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		now, err := change(opts.app, ctx, vm.Id)
		return now.GetState(), err
	})
}

func (a *App) pauseVM(ctx context.Context, id string) (*bangerv1.VM, error) {
	return a.client.PauseVM(ctx, id)
}

func (a *App) resumeVM(ctx context.Context, id string) (*bangerv1.VM, error) {
	return a.client.ResumeVM(ctx, id)
}
