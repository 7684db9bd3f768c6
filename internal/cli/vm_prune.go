package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// vmPruneOptions are the flags of vm prune.
type vmPruneOptions struct {
	app   *App
	force bool
}

func (a *App) newVMPrune(run func(context.Context, *vmPruneOptions) error) *cobra.Command {
	opts := &vmPruneOptions{app: a}
	if run == nil {
		run = runVMPrune
	}
	cmd := &cobra.Command{
		Use: "prune", Short: "Delete every VM that does not run", Args: none,
		Long: "Deletes every VM that is stopped, created or in error, with its disks, after it has\n" +
			"listed them and asked. One that is started meanwhile is left alone.",
		Example: examples("banger vm prune", "banger vm prune -f      # without the question"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVarP(&opts.force, "force", "f", false, "do not ask")
	return cmd
}

// prunable are the VMs that a prune deletes.
func prunable(vms []*bangerv1.VM) []*bangerv1.VM {
	var out []*bangerv1.VM
	for _, vm := range vms {
		switch banger.State(vm.State) {
		case banger.StateStopped, banger.StateCreated, banger.StateError:
			out = append(out, vm)
		}
	}
	return out
}

func runVMPrune(ctx context.Context, opts *vmPruneOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return err
	}
	vms = prunable(vms)
	if len(vms) == 0 {
		if a.json {
			return a.printJSON([]*outcome{})
		}
		if !a.quiet {
			fmt.Fprintln(a.IO.Err, "no VM is stopped, created or in error")
		}
		return nil
	}
	if !opts.force {
		if err := a.confirmPrune(ctx, vms); err != nil {
			return err
		}
	}
	refs := make([]string, 0, len(vms))
	for _, vm := range vms {
		refs = append(refs, vm.Id)
	}
	return a.eachBusy(ctx, "deleting", refs, func(ctx context.Context, vm *bangerv1.VM) (string, error) {
		if _, err := c.DeleteVM(ctx, vm.Id, false); err != nil && banger.CodeOf(err) != banger.CodeNotFound {
			return vm.State, err
		}
		return "deleted", nil
	})
}

// confirmPrune lists the VMs and asks.
func (a *App) confirmPrune(ctx context.Context, vms []*bangerv1.VM) error {
	for _, vm := range vms {
		fmt.Fprintf(a.IO.Err, "  %-20s %-8s %s, %s\n", safe.Line(vm.Name), safe.Line(vm.State), safe.Line(orDash(vm.Image)), age(a.Now(), vm.CreatedUnixMs))
	}
	if !a.IO.InTTY {
		return banger.Errorf(banger.CodeUsage, "%d VMs are not deleted: there is no terminal to ask on", len(vms)).WithHint("banger vm prune -f")
	}
	yes, err := a.ask(ctx, fmt.Sprintf("Delete %s and all that is on their disks? [y/N] ", count(len(vms), "VM")))
	if err == nil && !yes {
		err = banger.Errorf(banger.CodeInterrupted, "nothing is deleted")
	}
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// ask asks a question on the terminal and reports whether the answer is yes. The
// reader of stdin is left behind when ctx ends: the command ends then.
func (a *App) ask(ctx context.Context, question string) (bool, error) {
	fmt.Fprint(a.IO.Err, question)
	type answer struct {
		line string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(a.IO.In, 1<<10)).ReadString('\n')
		answers <- answer{line, err}
	}()
	select {
	case got := <-answers:
		if got.err != nil && !errors.Is(got.err, io.EOF) {
			return false, got.err
		}
		word := strings.ToLower(strings.TrimSpace(got.line))
		return word == "y" || word == "yes", nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
