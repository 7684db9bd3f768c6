package cli

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// waitAgain is how often a VM without a supervisor is asked for.
const waitAgain = time.Second

// vmWaitOptions are the flags of vm wait.
type vmWaitOptions struct {
	app     *App
	ref     string
	until   string
	timeout time.Duration
}

func (a *App) newVMWait(run func(context.Context, *vmWaitOptions) error) *cobra.Command {
	opts := &vmWaitOptions{app: a}
	if run == nil {
		run = runVMWait
	}
	cmd := &cobra.Command{
		Use: "wait NAME", Short: "Wait until a VM has stopped, runs, is paused, or is ready", Args: exactly(1, "NAME"),
		Long: "Waits until the VM is what --for says and prints its state. Exit code 6 after\n" +
			"--timeout, 4 if it is in error and so will not become that, 3 if it is deleted.",
		Example:           examples("banger vm wait dev", "banger vm wait --for ready --timeout 2m dev"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			if err := oneOf("--for", opts.until, "stopped", "running", "paused", "ready"); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVar(&opts.until, "for", "stopped", "what to wait for: stopped, running, paused or ready")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 0, "give up after this time, with exit code 6 (default never)")
	a.completeFlag(cmd, "for", func(context.Context) []string { return []string{"stopped", "running", "paused", "ready"} })
	return cmd
}

func runVMWait(ctx context.Context, opts *vmWaitOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := c.GetVM(ctx, opts.ref)
	if err != nil {
		return err
	}
	if opts.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, opts.timeout,
			banger.Errorf(banger.CodeTimeout, "vm %q is not %s after %s", vm.Name, opts.until, opts.timeout).
				WithHint("banger vm show %s, or a longer --timeout", vm.Name))
		defer cancel()
	}
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	reporter.Update(banger.Progress{Stage: "waiting", Detail: vm.Name + " for " + opts.until})
	vm, err = opts.wait(ctx, vm)
	reporter.Close()
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(viewVM(vm))
	case a.quiet:
		return a.println(vm.Id)
	}
	return a.println(safe.Line(vm.State))
}

// wait returns the VM once it is what it is waited for. It follows the
// supervisor's events; a VM without one is asked for now and then.
func (o *vmWaitOptions) wait(ctx context.Context, vm *bangerv1.VM) (*bangerv1.VM, error) {
	id := vm.Id
	for {
		done, err := o.reached(vm)
		if done || err != nil {
			return vm, err
		}
		o.change(ctx, vm)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if vm, err = o.app.client.GetVM(ctx, id); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
	}
}

// reached reports whether vm is what is waited for; an error says that it will
// not be.
func (o *vmWaitOptions) reached(vm *bangerv1.VM) (bool, error) {
	state := banger.State(vm.State)
	switch o.until {
	case "running", "paused":
		if string(state) == o.until {
			return true, nil
		}
	case "ready":
		if state == banger.StateRunning && banger.Grade(vm.Ready).Reached(banger.GradeSystem) {
			return true, nil
		}
	default:
		return !state.Active(), nil
	}
	if state == banger.StateError {
		return false, banger.Errorf(banger.CodeWrongState, "vm %q is in error: %s", vm.Name, vm.Reason).WithHint("banger vm logs %s", vm.Name)
	}
	return false, nil
}

// change returns when something of the VM may have changed.
func (o *vmWaitOptions) change(ctx context.Context, vm *bangerv1.VM) {
	supervisor, done := supervisorOf(vm)
	defer done()
	watch, err := supervisor.Watch(ctx, connect.NewRequest(&vmv1.WatchRequest{}))
	if err == nil {
		defer watch.Close()
		// The first message is the present; any other is a change, and so is
		// the end of the stream.
		first := watch.Receive()
		if first && watch.Receive() {
			return
		}
	}
	timer := time.NewTimer(waitAgain)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
