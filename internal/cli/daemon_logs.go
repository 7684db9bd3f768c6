package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// daemonLogsOptions are the flags of daemon logs.
type daemonLogsOptions struct {
	app    *App
	follow bool
	tail   int
}

func (a *App) newDaemonLogs(run func(context.Context, *daemonLogsOptions) error) *cobra.Command {
	opts := &daemonLogsOptions{app: a}
	if run == nil {
		run = runDaemonLogs
	}
	cmd := &cobra.Command{
		Use: "logs", Short: "Show the daemon's log, also when it does not run", Args: none,
		Example: examples("banger daemon logs --tail 20", "banger daemon logs -f"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkTail(cmd, opts.tail); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on with what is written")
	cmd.Flags().IntVar(&opts.tail, "tail", -1, "only the last N lines (default all)")
	cmd.Flags().Lookup("tail").DefValue = "0" // which the help does not show
	return cmd
}

func runDaemonLogs(ctx context.Context, opts *daemonLogsOptions) error {
	a := opts.app
	home, err := a.Home()
	if err != nil {
		return err
	}
	lines := []string{}
	log := &logFile{path: home.DaemonLog(), source: "daemon", show: func(_, line string) error {
		switch {
		case a.json && opts.follow:
			return json.NewEncoder(a.IO.Out).Encode(line)
		case a.json:
			lines = append(lines, line)
			return nil
		case a.IO.OutTTY:
			line = safe.Line(line)
		}
		_, err := fmt.Fprintln(a.IO.Out, line)
		return err
	}}
	defer log.close()
	if err := log.history(opts.tail, time.Time{}); err != nil {
		return err
	}
	if opts.follow {
		return opts.followLog(ctx, log)
	}
	if a.json {
		return a.printJSON(lines)
	}
	return nil
}

// followLog shows what is added until ctx ends.
func (o *daemonLogsOptions) followLog(ctx context.Context, log *logFile) error {
	changed, closeWatch, err := watchDir(filepath.Dir(log.path))
	if err != nil {
		return banger.Errorf(banger.CodeFailed, "watch %s: %w", filepath.Dir(log.path), err).WithHint("banger daemon start")
	}
	defer closeWatch()
	for {
		if err := log.more(); err != nil {
			return err
		}
		select {
		case _, ok := <-changed:
			if !ok {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
