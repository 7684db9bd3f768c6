package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client"
	"github.com/banger-dev/banger/api/stream"
)

// linkTime is how long exec and ssh wait for the agent of a VM that starts.
const linkTime = 30 * time.Second

// vmExecOptions are the flags of vm exec.
type vmExecOptions struct {
	app   *App
	ref   string
	guest guestOptions
}

func (a *App) newVMExec(run func(context.Context, *vmExecOptions) error) *cobra.Command {
	opts := &vmExecOptions{app: a}
	if run == nil {
		run = runVMExec
	}
	cmd := &cobra.Command{
		Use: "exec [flags] NAME [-- CMD...]", Short: "Run a command, or a shell, in a running VM",
		Long: "Runs CMD in a running VM: its exit code is banger's. Without CMD, a login shell.\n\n" +
			"stdin is passed on, as ssh does: in a loop over lines of stdin use -i=false.\n" +
			"Exit codes: as of banger vm run --help.",
		Example: examples("banger exec dev -- make test", "banger exec -it dev -- bash", "banger exec -u nobody -w /tmp dev -- id",
			"banger exec dev -- tar c /var/log > log.tar",
			"banger exec --time-limit 90s dev -- make test    # exit code 124 if it takes longer"),
		Annotations:       map[string]string{guestCommand: "yes"},
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeOneVM(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, argv, dash := splitDash(cmd, args)
			if err := exactlyNamed(cmd, before); err != nil {
				return err
			}
			if dash && len(argv) == 0 {
				return usagef(cmd, "there is no command after --")
			}
			opts.ref = before[0]
			opts.guest.take(cmd, argv)
			return run(cmd.Context(), opts)
		},
	}
	opts.guest.addFlags(cmd.Flags())
	return cmd
}

// exactlyNamed wants one NAME before --.
func exactlyNamed(cmd *cobra.Command, before []string) error {
	switch len(before) {
	case 0:
		return usagef(cmd, "NAME is missing")
	case 1:
		return nil
	}
	return usagef(cmd, "a command stands after --, as in: %s %s -- %s", cmd.CommandPath(), before[0], before[1])
}

func runVMExec(ctx context.Context, opts *vmExecOptions) error {
	a := opts.app
	if a.json && len(opts.guest.argv) == 0 {
		return banger.Errorf(banger.CodeUsage, "--json needs a command, not a shell").WithHint("banger exec --json %s -- CMD", opts.ref)
	}
	guest, err := opts.guest.prepare(a)
	if err != nil {
		return err
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	link, err := a.link(ctx, c, opts.ref)
	if err != nil {
		return err
	}
	guest.attach(link.Vm, c.Dialer(link.Vm.Id, link.LinkSocket, stream.PortExec))
	exit, err := guest.run(ctx)
	return guest.report(exit, err)
}

// link asks where the guest is, with a sign of life while its agent is awaited.
func (a *App) link(ctx context.Context, c *client.Client, ref string) (*bangerv1.LinkVMResponse, error) {
	reporter, err := a.reporter("")
	if err != nil {
		return nil, err
	}
	defer reporter.Close()
	reporter.Update(banger.Progress{Stage: "agent", Detail: "waiting for the guest of " + ref})
	return c.LinkVM(ctx, ref, linkTime)
}
