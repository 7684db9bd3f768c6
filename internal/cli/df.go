package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// dfOptions are the flags of df.
type dfOptions struct {
	app     *App
	verbose bool
}

func (a *App) newDf(run func(context.Context, *dfOptions) error) *cobra.Command {
	opts := &dfOptions{app: a}
	if run == nil {
		run = runDf
	}
	cmd := &cobra.Command{
		Use: "df", Short: "Show what VMs, images, templates and caches take on this host's disk", Args: none,
		Long: "Shows the storage that is really allocated; blocks that clones share count in each.\n" +
			"RECLAIMABLE: VMs that do not run (banger vm prune), templates that are out of date\n" +
			"(banger template prune), and caches, which are made again when they are needed.",
		Example: examples("banger df", "banger df -v     # each VM, image, template by itself", "banger df --json"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVarP(&opts.verbose, "verbose", "v", false, "each thing by itself")
	return cmd
}

// dfView is the answer in JSON.
type dfView struct {
	Uses       []useView `json:"uses"`
	FreeBytes  int64     `json:"free_bytes"`
	TotalBytes int64     `json:"total_bytes"`
}

type useView struct {
	Kind        string `json:"kind"`
	Name        string `json:"name"`
	Bytes       int64  `json:"bytes"`
	Reclaimable bool   `json:"reclaimable"`
}

func runDf(ctx context.Context, opts *dfOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	reporter.Update(banger.Progress{Stage: "counting"})
	usage, err := c.DiskUsage(ctx)
	reporter.Close()
	switch {
	case err != nil:
		return err
	case a.json:
		view := dfView{Uses: []useView{}, FreeBytes: usage.FreeBytes, TotalBytes: usage.TotalBytes}
		for _, u := range usage.Uses {
			view.Uses = append(view.Uses, useView{u.Kind, u.Name, u.Bytes, u.Reclaimable})
		}
		return a.printJSON(view)
	case a.quiet:
		for _, u := range usage.Uses {
			if err := a.println(a.shown(u.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	rows := kindRows(usage.Uses)
	if opts.verbose {
		rows = a.useRows(usage.Uses)
	}
	if err := a.table(rows); err != nil {
		return err
	}
	fmt.Fprintf(a.IO.Err, "free: %s of %s\n", banger.FormatSize(usage.FreeBytes), banger.FormatSize(usage.TotalBytes))
	return nil
}

// useRows has a row for each thing.
func (a *App) useRows(uses []*bangerv1.DiskUse) [][]string {
	rows := [][]string{{"TYPE", "NAME", "SIZE", "RECLAIMABLE"}}
	for _, u := range uses {
		name := u.Name
		if u.Kind != "image" && u.Kind != "kernel" {
			name = banger.ShortID(name)
		}
		if u.Kind == "vm" {
			name = u.Name
		}
		rows = append(rows, []string{u.Kind, a.shown(name), banger.FormatSize(u.Bytes), yesNo(u.Reclaimable)})
	}
	return rows
}

// kindRows has a row for each kind, and their sum.
func kindRows(uses []*bangerv1.DiskUse) [][]string {
	type sum struct {
		count              int
		bytes, reclaimable int64
	}
	sums := map[string]*sum{}
	var all sum
	for _, u := range uses {
		s := sums[u.Kind]
		if s == nil {
			s = new(sum)
			sums[u.Kind] = s
		}
		for _, t := range []*sum{s, &all} {
			t.count++
			t.bytes += u.Bytes
			if u.Reclaimable {
				t.reclaimable += u.Bytes
			}
		}
	}
	rows := [][]string{{"TYPE", "COUNT", "SIZE", "RECLAIMABLE"}}
	row := func(name string, s *sum) {
		if s != nil {
			rows = append(rows, []string{name, fmt.Sprint(s.count), banger.FormatSize(s.bytes), banger.FormatSize(s.reclaimable)})
		}
	}
	for _, kind := range []struct{ kind, noun string }{{"vm", "VMs"}, {"image", "images"}, {"kernel", "kernels"},
		{"template", "templates"}, {"spare", "spares"}, {"cache", "caches"}} {
		row(kind.noun, sums[kind.kind])
	}
	row("all", &all)
	return rows
}
