package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmStopOptions are the flags of vm stop.
type vmStopOptions struct {
	app     *App
	refs    []string
	timeout time.Duration
}

func (a *App) newVMStop(run func(context.Context, *vmStopOptions) error) *cobra.Command {
	opts := &vmStopOptions{app: a}
	if run == nil {
		run = runVMStop
	}
	cmd := &cobra.Command{
		Use: "stop NAME...", Short: "Shut VMs down; their disks stay", Args: some("NAME"),
		Long: "Asks the guest to shut down, and powers it off if it takes longer than --timeout.\n" +
			"A paused VM goes on for that.",
		Example:           examples("banger stop dev", "banger vm stop dev test --timeout 5s", "banger stop $(banger ps -q)"),
		ValidArgsFunction: a.completeVMs(active),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 20*time.Second, "time for a clean shutdown before the power goes off")
	return cmd
}

func runVMStop(ctx context.Context, opts *vmStopOptions) error {
	return opts.app.eachBusy(ctx, "stopping", opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		stopped, err := opts.app.client.StopVM(ctx, vm.Id, opts.timeout)
		return stopped.GetState(), err
	})
}
