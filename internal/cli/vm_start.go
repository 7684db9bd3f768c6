package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmStartOptions are the flags of vm start and vm restart.
type vmStartOptions struct {
	app     *App
	refs    []string
	timeout time.Duration
	// stop is the time for a clean shutdown, of restart.
	stop    time.Duration
	restart bool
	verbose bool
}

func (a *App) newVMStart(run func(context.Context, *vmStartOptions) error) *cobra.Command {
	return a.startCommand(&vmStartOptions{app: a}, run, &cobra.Command{
		Use: "start NAME...", Short: "Start VMs and wait until they are ready",
		Example:           examples("banger vm start dev", "banger vm start dev test --timeout 3m"),
		ValidArgsFunction: a.completeVMs(inactive),
	})
}

func (a *App) newVMRestart(run func(context.Context, *vmStartOptions) error) *cobra.Command {
	opts := &vmStartOptions{app: a, restart: true}
	cmd := a.startCommand(opts, run, &cobra.Command{
		Use: "restart NAME...", Short: "Stop VMs and start them again",
		Example:           examples("banger vm restart dev", "banger vm restart --stop-timeout 5s dev"),
		ValidArgsFunction: a.completeVMs(anyState),
	})
	cmd.Flags().DurationVar(&opts.stop, "stop-timeout", 20*time.Second, "time for a clean shutdown before the power goes off")
	return cmd
}

func (a *App) startCommand(opts *vmStartOptions, run func(context.Context, *vmStartOptions) error, cmd *cobra.Command) *cobra.Command {
	if run == nil {
		run = runVMStart
	}
	cmd.Args = some("NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		opts.refs = args
		return run(cmd.Context(), opts)
	}
	addVerbose(cmd.Flags(), &opts.verbose)
	cmd.Flags().DurationVar(&opts.timeout, "timeout", defaultReady, "how long to wait for the guest")
	return cmd
}

func runVMStart(ctx context.Context, opts *vmStartOptions) error {
	if _, err := opts.app.form(); err != nil {
		return err
	}
	outcomes, err := opts.app.each(ctx, opts.refs, opts.one)
	if err != nil {
		return err
	}
	return opts.app.reportOutcomes(outcomes)
}

// one starts one VM.
func (o *vmStartOptions) one(ctx context.Context, vm *bangerv1.VM) (string, error) {
	label := ""
	if len(o.refs) > 1 {
		label = vm.Name
	}
	events, err := o.app.events(label)
	if err != nil {
		return vm.State, err
	}
	defer events.Close()
	if o.restart {
		if _, err := o.app.client.StopVM(ctx, vm.Id, o.stop); err != nil {
			return vm.State, err
		}
	}
	started, err := o.app.client.StartVM(ctx, &bangerv1.StartVMRequest{Ref: vm.Id, TimeoutMs: o.timeout.Milliseconds()}, events)
	if err != nil {
		return "", err
	}
	if o.verbose {
		events.origin(started, bootedAgain(vm))
	}
	events.degraded(started)
	return started.State, nil
}

// bootedAgain is why a VM boots where the daemon does not say; vm is as it was
// before the start.
func bootedAgain(vm *bangerv1.VM) string {
	if banger.State(vm.State) == banger.StateCreated {
		return "there is no template of this image and shape yet, or it was created with --cold"
	}
	return "it has run before, on disks of its own"
}
