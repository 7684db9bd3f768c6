package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// vmLogsOptions are the flags of vm logs.
type vmLogsOptions struct {
	app    *App
	ref    string
	follow bool
	tail   int
	boot   bool
}

func (a *App) newVMLogs(run func(context.Context, *vmLogsOptions) error) *cobra.Command {
	opts := &vmLogsOptions{app: a}
	if run == nil {
		run = runVMLogs
	}
	cmd := &cobra.Command{
		Use: "logs NAME", Short: "Show a VM's console and its supervisor's log", Args: exactly(1, "NAME"),
		Long: "Shows the guest's console, and the log of its supervisor in lines that begin with\n" +
			"[supervisor]. On a terminal, control characters of the guest are shown as escapes.",
		Example:           examples("banger logs dev", "banger logs -f --tail 20 dev", "banger vm logs --boot dev    # since it was last started"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			if err := checkTail(cmd, opts.tail); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on with what is written, until the VM stops")
	cmd.Flags().IntVar(&opts.tail, "tail", -1, "only the last N lines of each (default all)")
	cmd.Flags().BoolVar(&opts.boot, "boot", false, "only since the last start")
	cmd.Flags().Lookup("tail").DefValue = "0" // which the help does not show
	return cmd
}

// checkTail refuses a number of lines below zero, which only the default is.
func checkTail(cmd *cobra.Command, lines int) error {
	if lines < 0 && cmd.Flags().Changed("tail") {
		return usagef(cmd, "--tail %d is not a number of lines", lines)
	}
	return nil
}

func runVMLogs(ctx context.Context, opts *vmLogsOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := c.GetVM(ctx, opts.ref)
	if err != nil {
		return err
	}
	var since time.Time
	if opts.boot {
		if since, err = lastBoot(layout.Instance(vm.Dir).Console()); err != nil {
			return err
		}
	}
	return opts.show(ctx, layout.Instance(vm.Dir), since, func() bool {
		now, err := c.GetVM(ctx, vm.Id)
		return err == nil && banger.State(now.State).Active()
	})
}

// show shows the logs in dir since a time, and with --follow what is added
// while alive says that the VM runs.
func (o *vmLogsOptions) show(ctx context.Context, dir layout.Instance, since time.Time, alive func() bool) error {
	viewer := &logViewer{app: o.app, collect: !o.follow}
	logs := []*logFile{
		{path: dir.SupervisorLog(), source: "supervisor", show: viewer.line},
		{path: dir.Console(), source: "console", show: viewer.line},
	}
	for _, log := range logs {
		defer log.close()
		if err := log.history(o.tail, since); err != nil {
			return err
		}
	}
	var ended error
	if o.follow {
		ended = followLogs(ctx, dir, logs, alive)
	}
	for _, log := range logs {
		if err := log.finish(); err != nil {
			return err
		}
	}
	if ended != nil {
		return ended
	}
	return viewer.end()
}
