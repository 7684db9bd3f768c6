package cli

import (
	"context"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// imageListOptions are the flags of image list.
type imageListOptions struct {
	app       *App
	available bool
}

// newImage is the group of commands on images.
func (a *App) newImage() *cobra.Command {
	cmd := newGroup("image", "Work with images", "banger image list", "banger image list --available", "banger image warm")
	cmd.AddCommand(a.newImageList(nil), a.newImageWarm(nil))
	return cmd
}

func (a *App) newImageList(run func(context.Context, *imageListOptions) error) *cobra.Command {
	opts := &imageListOptions{app: a}
	if run == nil {
		run = runImageList
	}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List local images, or what the catalogs have", Args: none,
		Example: examples("banger image list", "banger image list --available", "banger image list -q"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.available, "available", false, "what the catalogs have, too")
	return cmd
}

// imageView is an image in JSON.
type imageView struct {
	Name        string `json:"name"`
	ID          string `json:"id,omitempty"`
	Source      string `json:"source"`
	SizeBytes   int64  `json:"size_bytes"`
	Kernel      string `json:"kernel,omitempty"`
	Created     string `json:"created,omitempty"`
	Description string `json:"description,omitempty"`
	Local       bool   `json:"local"`
}

func runImageList(ctx context.Context, opts *imageListOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	images, err := c.ListImages(ctx, opts.available)
	if err != nil {
		return err
	}
	if a.json {
		views := make([]imageView, 0, len(images))
		for _, i := range images {
			views = append(views, imageView{i.Name, i.Id, i.Source, i.SizeBytes, i.Kernel, when(i.CreatedUnixMs), i.Description, i.Local})
		}
		return a.printJSON(views)
	}
	if a.quiet {
		return printNames(a, images)
	}
	return a.table(opts.rows(images))
}

// named is an image or a kernel.
type named interface{ GetName() string }

func printNames[T named](a *App, things []T) error {
	for _, thing := range things {
		if err := a.println(a.shown(thing.GetName())); err != nil {
			return err
		}
	}
	return nil
}

func (o *imageListOptions) rows(images []*bangerv1.Image) [][]string {
	head := []string{"NAME", "ID", "SOURCE", "SIZE", "KERNEL", "CREATED"}
	if o.available {
		head = append(head, "LOCAL", "DESCRIPTION")
	}
	rows := [][]string{head}
	for _, i := range images {
		size := "-"
		if i.SizeBytes > 0 {
			size = banger.FormatSize(i.SizeBytes)
		}
		row := []string{o.app.shown(i.Name), orDash(banger.ShortID(i.Id)), orDash(i.Source), size, orDash(o.app.shown(i.Kernel)), ago(o.app, i.CreatedUnixMs)}
		if o.available {
			row = append(row, yesNo(i.Local), o.app.shown(i.Description))
		}
		rows = append(rows, row)
	}
	return rows
}

// ago is the age of something, or a dash.
func ago(a *App, ms int64) string {
	if ms == 0 {
		return "-"
	}
	return age(a.Now(), ms) + " ago"
}
