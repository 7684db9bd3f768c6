package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmKillOptions are the flags of vm kill.
type vmKillOptions struct {
	app    *App
	refs   []string
	signal int
}

func (a *App) newVMKill(run func(context.Context, *vmKillOptions) error) *cobra.Command {
	opts := &vmKillOptions{app: a}
	if run == nil {
		run = runVMKill
	}
	signal := "KILL"
	cmd := &cobra.Command{
		Use: "kill NAME...", Short: "Power VMs off at once, or send them a signal", Args: some("NAME"),
		Long: "Powers VMs off as if their plug was pulled; their disks stay, and the next start\n" +
			"replays their journals. With --signal TERM the guest is asked to shut down, as by\n" +
			"a power button, and nobody waits for it; any other signal goes to its process 1.",
		Example:           examples("banger vm kill dev", "banger vm kill --signal TERM dev test", "banger vm kill -s RTMIN+4 dev"),
		ValidArgsFunction: a.completeVMs(active),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, ok := signalNumber(signal)
			if !ok {
				return usagef(cmd, "--signal %q is not a signal such as TERM, SIGHUP or 10", signal)
			}
			opts.refs, opts.signal = args, number
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", signal, "`signal` by name or number")
	a.completeFlag(cmd, "signal", func(context.Context) []string { return []string{"KILL", "TERM", "INT", "HUP", "USR1", "USR2"} })
	return cmd
}

// The real-time signals of Linux as C libraries number them: the first two are
// their own.
const (
	firstRealTime = 34
	lastRealTime  = 64
)

// signalNumber reads a signal: a number, or a name with or without SIG.
func signalNumber(text string) (int, bool) {
	if n, err := strconv.Atoi(text); err == nil {
		return n, n >= 1 && n <= lastRealTime
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	for prefix, base := range map[string]int{"RTMIN": firstRealTime, "RTMAX": lastRealTime} {
		offset, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if offset != "" {
			var err error
			if n, err = strconv.Atoi(offset); err != nil || offset[0] != '+' && offset[0] != '-' {
				return 0, false
			}
		}
		return base + n, base+n >= firstRealTime && base+n <= lastRealTime
	}
	n := unix.SignalNum("SIG" + name)
	return int(n), n > 0
}

func runVMKill(ctx context.Context, opts *vmKillOptions) error {
	return opts.app.eachBusy(ctx, "killing", opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		now, err := opts.app.client.KillVM(ctx, vm.Id, opts.signal)
		return now.GetState(), err
	})
}
