package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/layout"
)

// cleanupWithin bounds what is undone after a command or an interrupt.
const cleanupWithin = 10 * time.Second

// vmRunOptions are the flags of vm run.
type vmRunOptions struct {
	app    *App
	create createOptions
	guest  guestOptions
	remove bool
}

func (a *App) newVMRun(run func(context.Context, *vmRunOptions) error) *cobra.Command {
	opts := &vmRunOptions{app: a}
	if run == nil {
		run = runVMRun
	}
	cmd := &cobra.Command{
		Use: "run [flags] [-- CMD...]", Short: "Run a command, or a shell, in a fresh VM",
		Long: "Makes a VM, waits until it is ready, and runs CMD in it: its exit code is banger's.\n" +
			"Without CMD, a login shell on a terminal. The VM stays, unless --rm is given.\n\n" +
			"Exit codes: CMD's own; 124 its --time-limit was over, 125 banger failed, 126 CMD cannot\n" +
			"be executed, 127 CMD is not there, 128+N ended by signal N, 130 interrupted before CMD began.",
		Example: examples(
			"banger run                                  # a shell",
			"banger run --rm -- uname -a                 # a command; the VM is gone after it",
			"banger run --name dev --memory 4G --vcpu 2",
			"banger run --rm --nat=false -- ./untrusted  # nothing leaves the VM",
			"banger run --rm --allow '*.debian.org' -- apt-get update",
			"banger run --rm --time-limit 10m -- make test    # exit code 124 if it takes longer",
			"tar c src | banger run --rm -- sh -c 'tar x && make -C src'"),
		Annotations: map[string]string{guestCommand: "yes"},
		Args:        cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			before, argv, dash := splitDash(cmd, args)
			if len(before) > 0 {
				return usagef(cmd, "%q is not expected here; a command stands after --, as in: banger run -- %s", before[0], before[0])
			}
			if dash && len(argv) == 0 {
				return usagef(cmd, "there is no command after --")
			}
			opts.create.take(cmd)
			opts.guest.take(cmd, argv)
			return run(cmd.Context(), opts)
		},
	}
	opts.create.addFlags(a, cmd)
	opts.guest.addFlags(cmd.Flags())
	cmd.Flags().BoolVar(&opts.remove, "rm", false, "delete the VM when the command or shell ends")
	return cmd
}

func runVMRun(ctx context.Context, opts *vmRunOptions) error {
	a := opts.app
	if err := opts.check(); err != nil {
		return err
	}
	req, err := opts.create.request(a)
	if err != nil {
		return err
	}
	req.Ephemeral = opts.remove
	guest, err := opts.guest.prepare(a)
	if err != nil {
		return err
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := a.create(ctx, c, req, &opts.create)
	if err != nil {
		return err
	}
	release := func() {}
	if opts.remove {
		release = c.Lease(context.WithoutCancel(ctx), vm.Id)
	}
	guest.attach(vm, c.Dialer(vm.Id, layout.Instance(vm.Dir).Link(), stream.PortExec))
	exit, err := guest.run(ctx)
	a.after(ctx, opts, guest, err)
	release()
	return guest.report(exit, err)
}

// check finds what cannot be, before anything is asked of the daemon.
func (o *vmRunOptions) check() error {
	if o.app.json && len(o.guest.argv) == 0 {
		return banger.Errorf(banger.CodeUsage, "--json needs a command, not a shell").WithHint("banger run --json -- CMD")
	}
	return nil
}

// create makes a VM and shows how. An interrupt undoes it.
func (a *App) create(ctx context.Context, c *client.Client, req *bangerv1.CreateVMRequest, o *createOptions) (*bangerv1.VM, error) {
	events, err := a.events("")
	if err != nil {
		return nil, err
	}
	defer events.Close()
	vm, err := c.CreateVM(ctx, req, events)
	if err == nil {
		if o.verbose {
			events.origin(vm, o.booted())
		}
		events.degraded(vm)
		return vm, nil
	}
	if banger.CodeOf(err) == banger.CodeInterrupted && events.spec != nil {
		a.undo(ctx, events.spec)
	}
	return nil, err
}

// undo waits until the daemon has undone a cancelled create, and removes the VM
// if it had just been made.
func (a *App) undo(ctx context.Context, vm *bangerv1.VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer cancel()
	ref := vm.Id
	if ref == "" {
		ref = vm.Name
	}
	if _, err := a.client.DeleteVM(ctx, ref, true); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
		message, _ := errorText(err)
		fmt.Fprintf(a.IO.Err, "banger: vm %q is not undone yet: %s\n", vm.Name, message)
	}
}

// after does what follows the command: deletes the VM, or says that it runs.
func (a *App) after(ctx context.Context, opts *vmRunOptions, guest *guestRun, err error) {
	switch {
	case opts.remove:
		if opts.create.policy.file == policyLearn {
			a.showLearned(ctx, guest.vm)
		}
		a.remove(ctx, guest.vm)
	case banger.CodeOf(err) == banger.CodeInterrupted && !guest.started:
		a.undo(ctx, guest.vm)
	case guest.cmd.TTY && guest.started:
		a.remind(ctx, guest.vm)
	}
}

// remove deletes the VM of --rm, within a limit of its own.
func (a *App) remove(ctx context.Context, vm *bangerv1.VM) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer cancel()
	err := a.client.DropVM(ctx, vm.Id)
	if err == nil || banger.CodeOf(err) == banger.CodeNotFound {
		return
	}
	message, _ := errorText(err)
	fmt.Fprintf(a.IO.Err, "banger: vm %q is not deleted: %s; try: banger rm -f %s\n", vm.Name, message, vm.Name)
}

// remind says that a VM still runs when its shell has ended.
func (a *App) remind(ctx context.Context, vm *bangerv1.VM) {
	if a.quiet {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer cancel()
	now, err := a.client.GetVM(ctx, vm.Id)
	if err == nil && banger.State(now.State) == banger.StateRunning {
		fmt.Fprintf(a.IO.Err, "vm %q is still running (stop: banger vm stop %s)\n", now.Name, now.Name)
	}
}
