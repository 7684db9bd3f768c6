package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
)

// sshConfigOptions are the flags of ssh-config.
type sshConfigOptions struct{ app *App }

func (a *App) newSSHConfig(run func(context.Context, *sshConfigOptions) error) *cobra.Command {
	opts := &sshConfigOptions{app: a}
	if run == nil {
		run = runSSHConfig
	}
	return &cobra.Command{
		Use: "ssh-config", Short: "Print the lines by which ssh reaches VMs by name", Args: none,
		Long: "Prints a block for ~/.ssh/config. With it, ssh, scp, sftp, rsync and editors reach\n" +
			"every VM as NAME.vm. The VM's host key is known beforehand; nothing is asked.",
		Example: examples("banger ssh-config >> ~/.ssh/config && ssh dev.vm",
			"ssh -F <(banger ssh-config) dev.vm", "rsync -a src/ dev.vm:src/"),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
}

func runSSHConfig(_ context.Context, opts *sshConfigOptions) error {
	a := opts.app
	settings, err := a.sshSettings("ForwardAgent no")
	if err != nil {
		return err
	}
	block := "# VMs of banger, by name\nHost *" + banger.NameSuffix + "\n    " + strings.Join(settings, "\n    ")
	if a.json {
		return a.printJSON(map[string]string{"config": block + "\n"})
	}
	return a.println(block)
}
