package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmListOptions are the flags of vm list.
type vmListOptions struct {
	app    *App
	all    bool
	latest bool
}

func (a *App) newVMList(run func(context.Context, *vmListOptions) error) *cobra.Command {
	opts := &vmListOptions{app: a}
	if run == nil {
		run = runVMList
	}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls", "ps"}, Short: "List VMs: the running ones, or all", Args: none,
		Example: examples("banger ps", "banger vm list --all", "banger vm list -aq    # full ids, for scripts", "banger vm list --json"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVarP(&opts.all, "all", "a", false, "stopped ones too")
	cmd.Flags().BoolVarP(&opts.latest, "latest", "l", false, "only the one created last, in any state")
	return cmd
}

func runVMList(ctx context.Context, opts *vmListOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return err
	}
	vms = opts.filter(vms)
	switch {
	case a.json:
		views := make([]vmView, 0, len(vms))
		for _, vm := range vms {
			views = append(views, viewVM(vm))
		}
		return a.printJSON(views)
	case a.quiet:
		for _, vm := range vms {
			if err := a.println(vm.Id); err != nil {
				return err
			}
		}
		return nil
	}
	rows := [][]string{{"NAME", "STATUS", "IMAGE", "VCPU", "MEM", "DISK", "ADDRESS", "AGE"}}
	for _, vm := range vms {
		rows = append(rows, []string{
			a.shown(vm.Name), a.shown(vm.State), a.shown(orDash(vm.Image)), strconv.Itoa(int(vm.Vcpu)),
			banger.FormatSize(vm.MemoryMib * banger.MiB), banger.FormatSize(vm.DiskBytes),
			orDash(vm.Address), age(a.Now(), vm.CreatedUnixMs),
		})
	}
	return a.table(rows)
}

// filter keeps what was asked for.
func (o *vmListOptions) filter(vms []*bangerv1.VM) []*bangerv1.VM {
	if o.latest {
		return vms[max(len(vms)-1, 0):]
	}
	if o.all {
		return vms
	}
	var active []*bangerv1.VM
	for _, vm := range vms {
		if banger.State(vm.State).Active() {
			active = append(active, vm)
		}
	}
	return active
}
