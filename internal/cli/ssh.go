package cli

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
)

// sshFailed is what ssh exits with when it failed itself.
const sshFailed = 255

// vmSSHOptions are the flags of vm ssh.
type vmSSHOptions struct {
	app     *App
	ref     string
	argv    []string
	forward bool
}

func (a *App) newVMSSH(run func(context.Context, *vmSSHOptions) error) *cobra.Command {
	opts := &vmSSHOptions{app: a}
	if run == nil {
		run = runVMSSH
	}
	cmd := &cobra.Command{
		Use: "ssh [flags] NAME [-- CMD...]", Short: "Log in to a VM with the host's ssh",
		Long: "Runs the host's ssh with the VM's known host key and the key that banger made.\n" +
			"The user's own ssh configuration is not read; for that, and for scp, sftp, rsync\n" +
			"and editors, see banger ssh-config. With --json the ssh command line is printed.",
		Example:           examples("banger ssh dev", "banger ssh dev -- uptime", "banger ssh -A dev -- git clone git@example.org:me/repo"),
		Annotations:       map[string]string{guestCommand: "yes"},
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeOneVM(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			before, argv, _ := splitDash(cmd, args)
			if err := exactlyNamed(cmd, before); err != nil {
				return err
			}
			opts.ref, opts.argv = before[0], argv
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVarP(&opts.forward, "forward-agent", "A", false, "let the VM use the host's ssh agent while logged in")
	return cmd
}

func runVMSSH(ctx context.Context, opts *vmSSHOptions) error {
	a := opts.app
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "ssh is not installed").WithHint("sudo apt-get install openssh-client")
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	link, err := a.link(ctx, c, opts.ref)
	if err != nil {
		return err
	}
	args, err := opts.arguments(link.Vm.Id)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"vm": link.Vm.Name, "vm_id": link.Vm.Id, "command": append([]string{ssh}, args...)})
	}
	a.signals.enter(commanding) // ssh hears the terminal's signals itself
	code, err := a.Command(context.WithoutCancel(ctx), ssh, args...)
	a.signals.enter(leaving)
	if err != nil {
		return err
	}
	if code == sshFailed {
		// ssh's own failure and a command's 255 look the same; a guest that is
		// no longer there tells them apart.
		if _, err := c.LinkVM(ctx, link.Vm.Id, 0); err != nil {
			return err
		}
	}
	return withCode(code)
}

// arguments are ssh's. The host is the VM's id, which no rename changes.
func (o *vmSSHOptions) arguments(id string) ([]string, error) {
	settings, err := o.app.sshSettings("ForwardAgent " + yesNo(o.forward))
	if err != nil {
		return nil, err
	}
	args := []string{"-F", "none"}
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, " ")
		args = append(args, "-o", key+"="+value)
	}
	args = append(args, id+banger.NameSuffix)
	if len(o.argv) > 0 {
		args = append(append(args, "--"), quoteCommand(o.argv))
	}
	return args, nil
}

// quoteCommand makes one string of a command, as ssh sends one: the guest's
// shell takes it apart into the same words again.
func quoteCommand(argv []string) string {
	if len(argv) == 1 {
		return argv[0]
	}
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = shellQuote(arg)
	}
	return strings.Join(words, " ")
}

const plainCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%"

func shellQuote(word string) string {
	if word != "" && strings.Trim(word, plainCharacters) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// sshSettings are the lines by which ssh reaches VMs, in the form of ssh_config.
func (a *App) sshSettings(extra ...string) ([]string, error) {
	home, err := a.Home()
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(home)
	if err != nil {
		return nil, err
	}
	key := cfg.SSHKeyPath
	if key == "" {
		key = home.SSHKey()
	}
	proxy := shellQuote(a.Self) + " internal proxy %n"
	if root := a.Getenv(layout.HomeVar); root != "" {
		proxy = "env " + shellQuote(layout.HomeVar+"="+root) + " " + proxy
	}
	return append([]string{
		"User root",
		"ProxyCommand " + proxy,
		fmt.Sprintf("IdentityFile %q", key),
		"IdentitiesOnly yes",
		fmt.Sprintf("UserKnownHostsFile %q", home.KnownHosts()),
		"GlobalKnownHostsFile none",
		"StrictHostKeyChecking yes",
		"UpdateHostKeys no",
		"CheckHostIP no",
	}, extra...), nil
}
