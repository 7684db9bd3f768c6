package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// vmShowOptions are the flags of vm show.
type vmShowOptions struct {
	app *App
	ref string
}

func (a *App) newVMShow(run func(context.Context, *vmShowOptions) error) *cobra.Command {
	opts := &vmShowOptions{app: a}
	if run == nil {
		run = runVMShow
	}
	return &cobra.Command{
		Use: "show NAME", Aliases: []string{"inspect"}, Short: "Show all of one VM, and what contains it", Args: exactly(1, "NAME"),
		Example:           examples("banger vm show dev", "banger vm show dev --json | jq .accel"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return run(cmd.Context(), opts)
		},
	}
}

func runVMShow(ctx context.Context, opts *vmShowOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vm, err := c.GetVM(ctx, opts.ref)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(viewVM(vm))
	case a.quiet:
		return a.println(vm.Id)
	}
	for _, field := range describeVM(vm, a.Now()) {
		if field[1] == "" {
			continue
		}
		if err := a.println(fmt.Sprintf("%-13s %s", field[0]+":", a.shown(field[1]))); err != nil {
			return err
		}
	}
	return nil
}

func describeVM(vm *bangerv1.VM, now time.Time) [][2]string {
	nat := "on"
	if !vm.Nat {
		nat = "off: nothing leaves"
	}
	fields := [][2]string{
		{"name", vm.Name}, {"id", vm.Id}, {"state", vm.State}, {"reason", vm.Reason}, {"ready", vm.Ready},
		{"failed units", strings.Join(vm.FailedUnits, ", ")},
		{"image", vm.Image}, {"image digest", vm.ImageDigest}, {"kernel", vm.Kernel},
		{"vcpu", fmt.Sprint(vm.Vcpu)}, {"memory", fmt.Sprintf("%d MiB", vm.MemoryMib)},
		{"disk", banger.FormatSize(vm.DiskBytes) + " (/root)"},
		{"overlay", banger.FormatSize(vm.OverlayBytes) + " (the system's changes)"},
		{"nat", nat}, {"policy", vm.Policy}, {"address", vm.Address},
		{"published", strings.Join(viewPublish(vm), ", ")},
	}
	if vm.Driver != "" {
		fields = append(fields, [2]string{"runs on", vm.Driver + "/" + vm.Accel},
			[2]string{"contained by", containment(vm)}, [2]string{"began by", describeOrigin(vm)})
	}
	if vm.Ephemeral {
		fields = append(fields, [2]string{"ephemeral", "deleted when its command ends"})
	}
	fields = append(fields, [2]string{"created", when(vm.CreatedUnixMs)}, [2]string{"started", when(vm.StartedUnixMs)},
		[2]string{"deleted", describeExpiry(vm, now)}, [2]string{"directory", vm.Dir})
	if vm.SupervisorPid != 0 {
		fields = append(fields, [2]string{"processes", fmt.Sprintf("supervisor %d, vmm %d", vm.SupervisorPid, vm.VmmPid)})
	}
	return fields
}

// describeExpiry says when a VM is deleted by itself; empty: never.
func describeExpiry(vm *bangerv1.VM, now time.Time) string {
	if vm.ExpiresUnixMs == 0 {
		return ""
	}
	left := max(time.UnixMilli(vm.ExpiresUnixMs).Sub(now), 0)
	return when(vm.ExpiresUnixMs) + " (in " + formatSpan(left) + ")"
}

// containment says what stands between the guest and the host.
func containment(vm *bangerv1.VM) string {
	parts := []string{"emulation"}
	if vm.Accel == "kvm" {
		parts[0] = "KVM"
	}
	if len(vm.Confinement) == 0 {
		return parts[0] + " alone"
	}
	return strings.Join(append(parts, vm.Confinement...), ", ")
}
