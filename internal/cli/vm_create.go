package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-dev/banger/internal/cli/safe"
)

// vmCreateOptions are the flags of vm create.
type vmCreateOptions struct {
	app     *App
	create  createOptions
	noStart bool
}

func (a *App) newVMCreate(run func(context.Context, *vmCreateOptions) error) *cobra.Command {
	opts := &vmCreateOptions{app: a}
	if run == nil {
		run = runVMCreate
	}
	cmd := &cobra.Command{
		Use: "create", Short: "Create a VM, start it and print its name", Args: none,
		Example: examples("banger vm create --name dev", "vm=$(banger vm create -q --image debian-bookworm)    # its id", "banger vm create --no-start --disk-size 20G",
			"banger vm create --name web --publish 8080:80    # http://127.0.0.1:8080 is its port 80",
			"banger vm create --name try --ttl 2h    # it is deleted in two hours, whatever it does then",
			"banger vm create --name dev --policy learn    # then banger vm policy suggest dev"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.create.take(cmd)
			return run(cmd.Context(), opts)
		},
	}
	opts.create.addFlags(a, cmd)
	cmd.Flags().BoolVar(&opts.noStart, "no-start", false, "do not start it")
	return cmd
}

func runVMCreate(ctx context.Context, opts *vmCreateOptions) error {
	a := opts.app
	req, err := opts.create.request(a)
	if err != nil {
		return err
	}
	req.NoStart = opts.noStart
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := a.create(ctx, c, req, &opts.create)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(viewVM(vm))
	case a.quiet:
		return a.println(vm.Id)
	}
	return a.println(safe.Line(vm.Name))
}
