package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
)

// vmHealthOptions are the arguments of vm health.
type vmHealthOptions struct {
	app     *App
	ref     string
	timeout time.Duration
}

func (a *App) newVMHealth(run func(context.Context, *vmHealthOptions) error) *cobra.Command {
	opts := &vmHealthOptions{app: a}
	if run == nil {
		run = runVMHealth
	}
	cmd := &cobra.Command{
		Use: "health NAME", Short: "Ask a VM's agent whether it is well, and how fast it answers", Args: exactly(1, "NAME"),
		Long:              "Exit code 0 if the agent answers and the system is ready, 1 if units of it have\nfailed, 4 if the VM does not run, 6 if its agent does not answer.",
		Example:           examples("banger vm health dev", "banger vm health --json dev | jq .latency_ms"),
		ValidArgsFunction: a.completeOneVM(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			if opts.timeout <= 0 {
				return usagef(cmd, "--timeout %s is not a time to wait", opts.timeout)
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().DurationVar(&opts.timeout, "timeout", 5*time.Second, "how long to wait for the agent")
	return cmd
}

// healthView is the answer in JSON.
type healthView struct {
	VM          string   `json:"vm"`
	VMID        string   `json:"vm_id"`
	Healthy     bool     `json:"healthy"`
	Ready       string   `json:"ready"`
	FailedUnits []string `json:"failed_units"`
	LatencyMS   float64  `json:"latency_ms"`
	Agent       string   `json:"agent"`
	Kernel      string   `json:"kernel"`
	Init        string   `json:"init"`
	BootID      string   `json:"boot_id"`
	UptimeMS    int64    `json:"uptime_ms"`
}

func runVMHealth(ctx context.Context, opts *vmHealthOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := c.GetVM(ctx, opts.ref)
	if err != nil {
		return err
	}
	if err := mustRun(vm); err != nil {
		return err
	}
	h, err := askHealth(ctx, vm, opts.timeout)
	if err != nil {
		return err
	}
	healthy := len(vm.FailedUnits) == 0
	switch {
	case a.json:
		err = a.printJSON(healthView{
			VM: vm.Name, VMID: vm.Id, Healthy: healthy, Ready: h.Ready, FailedUnits: append([]string{}, vm.FailedUnits...),
			LatencyMS: float64(h.LatencyUs) / 1000, Agent: h.Build, Kernel: h.Kernel, Init: h.Init, BootID: h.BootId, UptimeMS: h.UptimeMs,
		})
	case a.quiet:
		err = a.println(vm.Id)
	default:
		err = a.println(a.shown(fmt.Sprintf("%s: agent %s answers in %.1f ms · ready: %s · kernel %s · init %s · up %s",
			vm.Name, h.Build, float64(h.LatencyUs)/1000, orDash(h.Ready), h.Kernel, h.Init, (time.Duration(h.UptimeMs) * time.Millisecond).Round(time.Second))))
	}
	if err == nil && !healthy {
		err = banger.Errorf(banger.CodeFailed, "vm %q has units that failed: %v", vm.Name, vm.FailedUnits).
			WithHint("banger exec %s -- systemctl status %s", vm.Name, vm.FailedUnits[0])
	}
	return err
}

func askHealth(ctx context.Context, vm *bangerv1.VM, timeout time.Duration) (*vmv1.HealthResponse, error) {
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	supervisor, done := supervisorOf(vm)
	defer done()
	res, err := supervisor.Health(bounded, connect.NewRequest(&vmv1.HealthRequest{}))
	switch {
	case err == nil:
		return res.Msg, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(bounded.Err(), context.DeadlineExceeded):
		return nil, banger.Errorf(banger.CodeTimeout, "vm %q: its agent does not answer within %s", vm.Name, timeout).WithHint("banger vm logs %s", vm.Name)
	}
	return nil, fromSupervisor(vm, err)
}

// fromSupervisor is an error about a VM, in its supervisor's words.
func fromSupervisor(vm *bangerv1.VM, err error) error {
	var wire *connect.Error
	text := err.Error()
	if errors.As(err, &wire) {
		text = wire.Message()
	}
	return banger.Errorf(banger.CodeFailed, "vm %q: %s", vm.Name, text).WithHint("banger vm logs %s", vm.Name)
}
