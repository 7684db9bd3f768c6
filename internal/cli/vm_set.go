package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// vmSetOptions are the flags of vm set.
type vmSetOptions struct {
	app                   *App
	refs                  []string
	name                  string
	vcpu                  int
	memory, disk, overlay string
	// nat is nil if it was not given.
	nat *bool
}

func (a *App) newVMSet(run func(context.Context, *vmSetOptions) error) *cobra.Command {
	opts := &vmSetOptions{app: a}
	if run == nil {
		run = runVMSet
	}
	var nat bool
	cmd := &cobra.Command{
		Use: "set NAME...", Short: "Change VMs: name, size, network", Args: some("NAME"),
		Long: "Changes what VMs are: all of what is asked for, or nothing. --vcpu and --memory\n" +
			"change only while a VM is stopped, the rest also while it runs. Disks only\n" +
			"grow; in a running guest there is more room at once. A running guest takes its new\n" +
			"hostname at the next start.",
		Example: examples("banger vm set --disk-size 20G dev", "banger vm set --vcpu 4 --memory 8G dev test",
			"banger vm set --name build dev", "banger vm set --nat=false dev"),
		ValidArgsFunction: a.completeVMs(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			if cmd.Flags().Changed("nat") {
				opts.nat = &nat
			}
			if err := opts.check(cmd); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.name, "name", "", "new name")
	flags.IntVar(&opts.vcpu, "vcpu", 0, "virtual CPUs")
	flags.StringVar(&opts.memory, "memory", "", "memory: 512M, 2G; a bare number means MiB")
	flags.StringVar(&opts.disk, "disk-size", "", "size of the disk at /root, as 8G: only more")
	flags.StringVar(&opts.overlay, "system-overlay-size", "", "size of the disk that holds changes of the system: only more")
	flags.BoolVar(&nat, "nat", true, "let the VM reach the network; with --nat=false nothing leaves it")
	return cmd
}

// check finds what the command line itself has wrong.
func (o *vmSetOptions) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case !slices.ContainsFunc([]string{"name", "vcpu", "memory", "disk-size", "system-overlay-size", "nat"}, changed):
		return usagef(cmd, "there is nothing to change")
	case changed("name") && len(o.refs) > 1:
		return usagef(cmd, "--name is for one VM, not for %d", len(o.refs))
	}
	if changed("vcpu") {
		if err := checkVCPU(o.vcpu); err != nil {
			return err
		}
	}
	if changed("name") {
		return banger.CheckName("vm", o.name)
	}
	return nil
}

func runVMSet(ctx context.Context, opts *vmSetOptions) error {
	a := opts.app
	req := &bangerv1.SetVMRequest{Name: opts.name, Vcpu: int32(opts.vcpu), Nat: opts.nat}
	var err error
	if req.MemoryMib, err = memorySize("--memory", opts.memory); err != nil {
		return err
	}
	if req.DiskBytes, err = diskSize("--disk-size", opts.disk); err != nil {
		return err
	}
	if req.OverlayBytes, err = diskSize("--system-overlay-size", opts.overlay); err != nil {
		return err
	}
	return a.eachBusy(ctx, "changing", opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		now, err := a.client.SetVM(ctx, &bangerv1.SetVMRequest{
			Ref: vm.Id, Name: req.Name, Vcpu: req.Vcpu, MemoryMib: req.MemoryMib,
			DiskBytes: req.DiskBytes, OverlayBytes: req.OverlayBytes, Nat: req.Nat,
		})
		if err == nil && now.Name != vm.Name && banger.State(now.State).Active() && !a.quiet {
			fmt.Fprintf(a.IO.Err, "vm %q is %q now; its guest is called so after its next start\n", safe.Line(vm.Name), safe.Line(now.Name))
		}
		return now.GetState(), err
	})
}
