package cli

import (
	"context"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmDeleteOptions are the flags of vm delete.
type vmDeleteOptions struct {
	app   *App
	refs  []string
	force bool
}

func (a *App) newVMDelete(run func(context.Context, *vmDeleteOptions) error) *cobra.Command {
	opts := &vmDeleteOptions{app: a}
	if run == nil {
		run = runVMDelete
	}
	cmd := &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "Delete VMs and their disks", Args: some("NAME"),
		Example:           examples("banger rm dev", "banger vm delete -f dev test    # stops them first"),
		ValidArgsFunction: a.completeVMs(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.force, "force", "f", false, "stop running ones first")
	return cmd
}

func runVMDelete(ctx context.Context, opts *vmDeleteOptions) error {
	return opts.app.eachBusy(ctx, "deleting", opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		_, err := opts.app.client.DeleteVM(ctx, vm.Id, opts.force)
		if err != nil {
			return vm.State, err
		}
		return "deleted", nil
	})
}
