package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// imageWarmOptions are the arguments of image warm.
type imageWarmOptions struct {
	app                   *App
	image                 string
	vcpu                  int
	vcpuSet               bool
	memory, disk, overlay string
}

func (a *App) newImageWarm(run func(context.Context, *imageWarmOptions) error) *cobra.Command {
	opts := &imageWarmOptions{app: a}
	if run == nil {
		run = runImageWarm
	}
	cmd := &cobra.Command{
		Use: "warm [NAME]", Short: "Make the template that VMs of an image start from",
		Long: "Makes the template of an image (default: the default image) and a shape, if there is\n" +
			"none, and prints its key: a VM of this image and shape that is frozen as soon as its\n" +
			"system is ready. New VMs of that shape start from it. Without this command it is made\n" +
			"beside the first run.",
		Example: examples("banger image warm", "banger image warm debian-bookworm --memory 4G --vcpu 2"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef(cmd, "%q is one argument too many", args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				opts.image = args[0]
			}
			opts.vcpuSet = cmd.Flags().Changed("vcpu")
			return run(cmd.Context(), opts)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if len(args) == 0 {
				names = a.imageNames(cmd.Context())
			}
			return slices.Clip(names), cobra.ShellCompDirectiveNoFileComp
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.vcpu, "vcpu", 0, "virtual CPUs")
	flags.StringVar(&opts.memory, "memory", "", "memory: 512M, 2G; a bare number means MiB")
	flags.StringVar(&opts.disk, "disk-size", "", "size of the disk at /root, as 8G")
	flags.StringVar(&opts.overlay, "system-overlay-size", "", "size of the disk that holds changes of the system, as 8G")
	a.helpWithDefaults(cmd)
	return cmd
}

func runImageWarm(ctx context.Context, opts *imageWarmOptions) error {
	a := opts.app
	req, err := opts.request()
	if err != nil {
		return err
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	events, err := a.events("")
	if err != nil {
		return err
	}
	defer events.Close()
	made, err := c.WarmImage(ctx, req, events.Progress)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		return a.printJSON(viewTemplate(made))
	case a.quiet:
		return a.println(made.Key)
	}
	events.Message(fmt.Sprintf("image %q has a template for %d vcpu · %d MiB · %s disk (%s)", made.Image, made.Vcpu,
		made.MemoryMib, banger.FormatSize(made.DiskBytes), banger.FormatSize(made.SizeBytes)))
	return a.println(banger.ShortID(made.Key))
}

// request checks the flags and says them to the daemon, which fills in the
// defaults.
func (o *imageWarmOptions) request() (*bangerv1.WarmImageRequest, error) {
	if o.vcpuSet {
		if err := checkVCPU(o.vcpu); err != nil {
			return nil, err
		}
	}
	req := &bangerv1.WarmImageRequest{Image: o.image, Vcpu: int32(o.vcpu)}
	var err error
	if req.MemoryMib, err = memorySize("--memory", o.memory); err != nil {
		return nil, err
	}
	if req.DiskBytes, err = diskSize("--disk-size", o.disk); err != nil {
		return nil, err
	}
	req.OverlayBytes, err = diskSize("--system-overlay-size", o.overlay)
	return req, err
}
