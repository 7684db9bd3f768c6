package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/cli/safe"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/policy"
)

// vmPolicyLogOptions are the flags of vm policy log.
type vmPolicyLogOptions struct {
	app    *App
	ref    string
	follow bool
	tail   int
}

func (a *App) newVMPolicyLog(run func(context.Context, *vmPolicyLogOptions) error) *cobra.Command {
	opts := &vmPolicyLogOptions{app: a}
	if run == nil {
		run = runVMPolicyLog
	}
	cmd := &cobra.Command{
		Use: "log NAME", Short: "Show what a VM was refused", Args: exactly(1, "NAME"),
		Long: "Shows each connection, datagram flow and lookup that was refused, and by which rule; while\n" +
			"the VM learns, what would have been. With --json, one JSON object a line. The log is bounded\n" +
			"in size, and a guest that is refused too often has lines left out, which are counted.",
		Example:           examples("banger vm policy log dev", "banger vm policy log -f --json dev | jq .name"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			if err := checkTail(cmd, opts.tail); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on with what is refused, until the VM stops")
	cmd.Flags().IntVar(&opts.tail, "tail", -1, "only the last N lines (default all)")
	cmd.Flags().Lookup("tail").DefValue = "0" // which the help does not show
	return cmd
}

func runVMPolicyLog(ctx context.Context, opts *vmPolicyLogOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := c.GetVM(ctx, opts.ref)
	if err != nil {
		return err
	}
	dir := layout.Instance(vm.Dir)
	log := &logFile{path: dir.PolicyLog(), source: "policy", show: func(_, line string) error { return a.policyLine(line) }}
	defer log.close()
	if err := log.history(opts.tail, time.Time{}); err != nil {
		return err
	}
	if !opts.follow {
		return nil
	}
	return followLogs(ctx, dir, []*logFile{log}, func() bool {
		now, err := c.GetVM(ctx, vm.Id)
		return err == nil && banger.State(now.State).Active()
	})
}

// policyLine shows one line of the log; what is no entry is passed over.
func (a *App) policyLine(line string) error {
	e, ok := policy.ParseEntry([]byte(line))
	switch {
	case !ok:
		return nil
	case a.json:
		return json.NewEncoder(a.IO.Out).Encode(e)
	case e.LeftOut > 0:
		if err := a.println(fmt.Sprintf("(%d lines left out: they came too fast)", e.LeftOut)); err != nil {
			return err
		}
	}
	// Names are the guest's.
	return a.println(safe.Line(describeEntry(e)))
}

// describeEntry is an entry as a person reads it.
func describeEntry(e policy.Entry) string {
	what := e.Name
	if e.Address.IsValid() {
		to := netip.AddrPortFrom(e.Address, e.Port).String()
		what = to
		if e.Name != "" {
			what = e.Name + " (" + to + ")"
		}
	}
	spoken := ""
	if e.Speech != policy.Unheard {
		spoken = "/" + string(e.Speech)
	}
	return fmt.Sprintf("%s %s: %s%s %s: %s (%s)", e.Time.Format(time.RFC3339), e.Verdict, e.Proto, spoken, what, e.Rule, e.Reason)
}
