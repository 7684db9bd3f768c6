package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// newTemplate is the group of commands on templates.
func (a *App) newTemplate() *cobra.Command {
	cmd := newGroup("template", "Work with templates: frozen VMs that new ones start from", "banger template list", "banger template prune")
	cmd.AddCommand(a.newTemplateList(nil), a.newTemplatePrune(nil))
	return cmd
}

// templateListOptions are the flags of template list.
type templateListOptions struct {
	app    *App
	verify bool
}

func (a *App) newTemplateList(run func(context.Context, *templateListOptions) error) *cobra.Command {
	opts := &templateListOptions{app: a}
	if run == nil {
		run = runTemplateList
	}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List templates, the one used last first", Args: none,
		Long: "Lists the templates, the one used last first. A VM starts from the current one of\n" +
			"its image and shape; one that is not current was made of an image, a kernel, an agent\n" +
			"or a QEMU that has changed since. A damaged one is used by none and made anew: what a\n" +
			"program wrote to its files is seen at every start, and what the host's disk has lost\n" +
			"without saying so with --verify. Spares are VMs of it that wait to be somebody's.",
		Example: examples("banger template list", "banger template list --verify", "banger template list --json | jq '.[].size_bytes'"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.verify, "verify", false, "read all of each template and say which are damaged")
	return cmd
}

func runTemplateList(ctx context.Context, opts *templateListOptions) error {
	c, err := opts.app.Client()
	if err != nil {
		return err
	}
	templates, err := c.ListTemplates(ctx, opts.verify)
	if err != nil {
		return err
	}
	return opts.app.printTemplates(templates)
}

// templatePruneOptions are the flags of template prune.
type templatePruneOptions struct {
	app         *App
	all, verify bool
}

func (a *App) newTemplatePrune(run func(context.Context, *templatePruneOptions) error) *cobra.Command {
	opts := &templatePruneOptions{app: a}
	if run == nil {
		run = runTemplatePrune
	}
	cmd := &cobra.Command{
		Use: "prune", Short: "Remove templates that no VM can be started from any more", Args: none,
		Long: "Removes the templates that are not current, and with --all every one. VMs that were\n" +
			"started from them go on. What is needed again is made again.",
		Example: examples("banger template prune", "banger template prune --all"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVarP(&opts.all, "all", "a", false, "the current ones, too")
	cmd.Flags().BoolVar(&opts.verify, "verify", false, "read all of each template and remove the damaged ones")
	return cmd
}

func runTemplatePrune(ctx context.Context, opts *templatePruneOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	removed, err := c.PruneTemplates(ctx, &bangerv1.PruneTemplatesRequest{All: opts.all, Verify: opts.verify})
	if err != nil {
		return err
	}
	if a.json || a.quiet {
		return a.printTemplates(removed)
	}
	var total int64
	for _, t := range removed {
		total += t.SizeBytes
		if err := a.println(banger.ShortID(t.Key)); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.IO.Err, "removed: %d, freed: %s\n", len(removed), banger.FormatSize(total))
	return nil
}

// templateView is a template in JSON.
type templateView struct {
	Key          string `json:"key"`
	Image        string `json:"image"`
	Kernel       string `json:"kernel"`
	VCPU         int32  `json:"vcpu"`
	MemoryMiB    int64  `json:"memory_mib"`
	DiskBytes    int64  `json:"disk_bytes"`
	OverlayBytes int64  `json:"system_overlay_bytes"`
	Driver       string `json:"driver"`
	Accel        string `json:"accel"`
	SizeBytes    int64  `json:"size_bytes"`
	Created      string `json:"created"`
	Used         string `json:"used"`
	Current      bool   `json:"current"`
	Spares       int32  `json:"spares"`
	Damaged      string `json:"damaged,omitempty"`
}

func viewTemplate(t *bangerv1.Template) templateView {
	return templateView{
		Key: t.Key, Image: t.Image, Kernel: t.Kernel, VCPU: t.Vcpu, MemoryMiB: t.MemoryMib, DiskBytes: t.DiskBytes,
		OverlayBytes: t.OverlayBytes, Driver: t.Driver, Accel: t.Accel, SizeBytes: t.SizeBytes,
		Created: when(t.CreatedUnixMs), Used: when(t.UsedUnixMs), Current: t.Current, Spares: t.Spares,
		Damaged: t.Damaged,
	}
}

func (a *App) printTemplates(templates []*bangerv1.Template) error {
	switch {
	case a.json:
		views := make([]templateView, 0, len(templates))
		for _, t := range templates {
			views = append(views, viewTemplate(t))
		}
		return a.printJSON(views)
	case a.quiet:
		for _, t := range templates {
			if err := a.println(t.Key); err != nil {
				return err
			}
		}
		return nil
	}
	rows := [][]string{{"KEY", "IMAGE", "KERNEL", "VCPU", "MEM", "DISK", "RUNS ON", "SIZE", "USED", "CURRENT", "SPARES"}}
	for _, t := range templates {
		rows = append(rows, []string{banger.ShortID(t.Key), a.shown(t.Image), a.shown(t.Kernel), fmt.Sprint(t.Vcpu),
			banger.FormatSize(t.MemoryMib * banger.MiB), banger.FormatSize(t.DiskBytes), t.Driver + "/" + t.Accel,
			banger.FormatSize(t.SizeBytes), ago(a, t.UsedUnixMs), a.isCurrent(t), fmt.Sprint(t.Spares)})
	}
	return a.table(rows)
}

// isCurrent is the last column of the list.
func (a *App) isCurrent(t *bangerv1.Template) string {
	if t.Damaged != "" {
		return "no: " + a.shown(t.Damaged)
	}
	return yesNo(t.Current)
}
