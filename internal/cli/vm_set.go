package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

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
	ttl string
}

func (a *App) newVMSet(run func(context.Context, *vmSetOptions) error) *cobra.Command {
	opts := &vmSetOptions{app: a}
	if run == nil {
		run = runVMSet
	}
	cmd := &cobra.Command{
		Use: "set NAME...", Short: "Change VMs: name, size, network, time to live", Args: some("NAME"),
		Long: "Changes what VMs are: all of what is asked for, or nothing. --vcpu and --memory\n" +
			"change only while a VM is stopped, the rest also while it runs. Disks only\n" +
			"grow; in a running guest there is more room at once. A running guest takes its new\n" +
			"hostname at the next start.",
		Example: examples("banger vm set --disk-size 20G dev", "banger vm set --vcpu 4 --memory 8G dev test",
			"banger vm set --name build dev", "banger vm set --nat=false dev",
			"banger vm set --ttl 7d dev      # it is deleted seven days after its creation", "banger vm set --ttl none dev"),
		ValidArgsFunction: a.completeVMs(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.refs = args
			if !cmd.Flags().Changed("nat") {
				opts.nat = nil
			}
			if err := opts.check(cmd); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func (o *vmSetOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.name, "name", "", "new name")
	flags.IntVar(&o.vcpu, "vcpu", 0, "virtual CPUs")
	flags.StringVar(&o.memory, "memory", "", "memory: 512M, 2G; a bare number means MiB")
	flags.StringVar(&o.disk, "disk-size", "", "size of the disk at /root, as 8G: only more")
	flags.StringVar(&o.overlay, "system-overlay-size", "", "size of the disk that holds changes of the system: only more")
	flags.StringVar(&o.ttl, "ttl", "", "delete the VM this `time` after its creation, as 2h or 7d; none: never")
	o.nat = flags.Bool("nat", true, "let the VM reach the network; with --nat=false nothing leaves it")
}

// check finds what the command line itself has wrong.
func (o *vmSetOptions) check(cmd *cobra.Command) error {
	changed := cmd.Flags().Changed
	switch {
	case !slices.ContainsFunc([]string{"name", "vcpu", "memory", "disk-size", "system-overlay-size", "nat", "ttl"}, changed):
		return usagef(cmd, "there is nothing to change")
	case changed("name") && len(o.refs) > 1:
		return usagef(cmd, "--name is for one VM, not for %d", len(o.refs))
	}
	if changed("ttl") {
		if _, err := o.newTTL(); err != nil {
			return err
		}
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
	if req.TtlMs, err = opts.newTTL(); err != nil {
		return err
	}
	return a.eachBusy(ctx, "changing", opts.refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		now, err := a.client.SetVM(ctx, &bangerv1.SetVMRequest{
			Ref: vm.Id, Name: req.Name, Vcpu: req.Vcpu, MemoryMib: req.MemoryMib,
			DiskBytes: req.DiskBytes, OverlayBytes: req.OverlayBytes, Nat: req.Nat, TtlMs: req.TtlMs,
		})
		if err == nil && now.Name != vm.Name && banger.State(now.State).Active() && !a.quiet {
			fmt.Fprintf(a.IO.Err, "vm %q is %q now; its guest is called so after its next start\n", safe.Line(vm.Name), safe.Line(now.Name))
		}
		return now.GetState(), err
	})
}

// newTTL is the time to live that was asked for, in milliseconds: 0 for none, nil if
// it stays as it is.
func (o *vmSetOptions) newTTL() (*int64, error) {
	var ms int64
	switch o.ttl {
	case "":
		return nil, nil
	case spanNone:
		return &ms, nil
	}
	span, err := parseSpan("--ttl", o.ttl)
	ms = span.Milliseconds()
	return &ms, err
}
