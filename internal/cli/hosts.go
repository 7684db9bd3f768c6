package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
)

// hostsOptions are the flags of hosts.
type hostsOptions struct{ app *App }

func (a *App) newHosts(run func(context.Context, *hostsOptions) error) *cobra.Command {
	opts := &hostsOptions{app: a}
	if run == nil {
		run = runHosts
	}
	return &cobra.Command{
		Use: "hosts", Short: "Print lines for /etc/hosts with the names of all VMs", Args: none,
		Long: "Prints a block for /etc/hosts, for a host that cannot be told to ask the daemon for the\n" +
			"names of VMs (banger doctor says what this one can). It names the VMs that there are\n" +
			"now; a VM keeps its address as long as it exists.",
		Example: examples("banger hosts | sudo tee -a /etc/hosts",
			"sudo sed -i '/^# banger: begin/,/^# banger: end/d' /etc/hosts    # take them out again"),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
}

func runHosts(ctx context.Context, opts *hostsOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return err
	}
	lines, names := []string{"# banger: begin"}, map[string]string{}
	for _, vm := range vms {
		// A record may have been made by another build: nothing but a name goes into
		// a file that all programs believe.
		if vm.Address == "" || banger.CheckName("vm", vm.Name) != nil {
			continue
		}
		lines = append(lines, vm.Address+" "+vm.Name+banger.NameSuffix)
		names[vm.Name+banger.NameSuffix] = vm.Address
	}
	if a.json {
		return a.printJSON(names)
	}
	return a.println(strings.Join(append(lines, "# banger: end"), "\n"))
}
