package cli

import (
	"context"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// kernelListOptions are the flags of kernel list.
type kernelListOptions struct {
	app       *App
	available bool
}

// newKernel is the group of commands on kernels.
func (a *App) newKernel() *cobra.Command {
	cmd := newGroup("kernel", "Work with kernels", "banger kernel list", "banger kernel list --available")
	cmd.AddCommand(a.newKernelList(nil))
	return cmd
}

func (a *App) newKernelList(run func(context.Context, *kernelListOptions) error) *cobra.Command {
	opts := &kernelListOptions{app: a}
	if run == nil {
		run = runKernelList
	}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List local kernels, or what the catalogs have", Args: none,
		Example: examples("banger kernel list", "banger kernel list --available --json"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.available, "available", false, "what the catalogs have, too")
	return cmd
}

// kernelView is a kernel in JSON.
type kernelView struct {
	Name        string `json:"name"`
	Version     string `json:"version,omitempty"`
	Distro      string `json:"distro"`
	Arch        string `json:"arch"`
	SHA256      string `json:"sha256,omitempty"`
	Source      string `json:"source"`
	Created     string `json:"created,omitempty"`
	Description string `json:"description,omitempty"`
	Local       bool   `json:"local"`
}

func runKernelList(ctx context.Context, opts *kernelListOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	kernels, err := c.ListKernels(ctx, opts.available)
	if err != nil {
		return err
	}
	if a.json {
		views := make([]kernelView, 0, len(kernels))
		for _, k := range kernels {
			views = append(views, kernelView{k.Name, k.Version, k.Distro, k.Arch, k.Sha256, k.Source, when(k.CreatedUnixMs), k.Description, k.Local})
		}
		return a.printJSON(views)
	}
	if a.quiet {
		return printNames(a, kernels)
	}
	return a.table(opts.rows(kernels))
}

func (o *kernelListOptions) rows(kernels []*bangerv1.Kernel) [][]string {
	head := []string{"NAME", "VERSION", "DISTRO", "ARCH", "SOURCE", "CREATED"}
	if o.available {
		head = append(head, "LOCAL", "DESCRIPTION")
	}
	rows := [][]string{head}
	for _, k := range kernels {
		row := []string{o.app.shown(k.Name), orDash(k.Version), orDash(k.Distro), orDash(k.Arch), orDash(k.Source), ago(o.app, k.CreatedUnixMs)}
		if o.available {
			row = append(row, yesNo(k.Local), o.app.shown(k.Description))
		}
		rows = append(rows, row)
	}
	return rows
}
