package cli

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// vmPortsOptions are the flags of vm ports.
type vmPortsOptions struct {
	app     *App
	ref     string
	noProbe bool
	timeout time.Duration
}

// defaultPorts is how long vm ports waits for the guest's word.
const defaultPorts = 10 * time.Second

func (a *App) newVMPorts(run func(context.Context, *vmPortsOptions) error) *cobra.Command {
	opts := &vmPortsOptions{app: a}
	if run == nil {
		run = runVMPorts
	}
	cmd := &cobra.Command{
		Use: "ports NAME", Short: "Show what listens in a VM, and where that is reached", Args: exactly(1, "NAME"),
		Long: "Shows the TCP sockets that listen in a VM, also those on its loopback, and where each is\n" +
			"reached from this host: on the VM's own address, at the same number if that is free here,\n" +
			"by programs of your own user; published ports by everybody. What speaks HTTP is found out\n" +
			"by asking, TLS first. A socket is forwarded within a second or two of its opening. UDP is\n" +
			"not forwarded, and a socket of the VM's IPv6 is reached by IPv4 here.",
		Example: examples("banger vm ports dev", "banger vm ports dev --json | jq -r '.ports[].endpoint'",
			"banger vm ports dev -q --no-probe    # address:port only, and no connection is made"),
		ValidArgsFunction: a.completeOneVM(running),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().BoolVar(&opts.noProbe, "no-probe", false, "do not connect to find out what speaks HTTP")
	cmd.Flags().DurationVar(&opts.timeout, "timeout", defaultPorts, "how long to wait for the guest's word")
	return cmd
}

func runVMPorts(ctx context.Context, opts *vmPortsOptions) error {
	a := opts.app
	if opts.timeout <= 0 {
		return banger.Errorf(banger.CodeUsage, "--timeout %s is not a time to wait", opts.timeout).WithHint("--timeout 10s")
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	reporter.Update(banger.Progress{Stage: "ports", Detail: "asking the VM"})
	res, err := c.ListPorts(ctx, opts.ref, !opts.noProbe && !a.quiet, opts.timeout)
	reporter.Close()
	if err != nil {
		return err
	}
	views := viewPorts(res, a.hostOf(ctx, res.GetVm()))
	switch {
	case a.json:
		return a.printJSON(portsView{Name: res.GetVm().GetName(), Address: res.GetVm().GetAddress(), Ports: views, More: res.More, Unknown: res.Unknown})
	case a.quiet:
		return opts.names(views)
	}
	return opts.show(res, views)
}

// names prints only where each port is reached.
func (o *vmPortsOptions) names(views []portView) error {
	for _, p := range views {
		if p.HostPort == 0 {
			continue
		}
		if err := o.app.println(net.JoinHostPort(p.HostAddress, strconv.Itoa(p.HostPort))); err != nil {
			return err
		}
	}
	return nil
}

// show prints the table, and beside it what the table does not say.
func (o *vmPortsOptions) show(res *bangerv1.ListPortsResponse, views []portView) error {
	a, name := o.app, safe.Line(res.GetVm().GetName())
	if res.Unknown != "" {
		fmt.Fprintf(a.IO.Err, "vm %q: %s\n", name, safe.Line(res.Unknown))
	}
	rows := [][]string{{"PROTO", "ENDPOINT", "PROCESS", "COMMAND"}}
	for _, p := range views {
		rows = append(rows, []string{a.shown(p.Protocol), orDash(a.shown(p.Endpoint)), orDash(a.shown(p.Process)), orDash(a.shown(p.Command))})
	}
	if err := a.table(rows); err != nil {
		return err
	}
	for _, p := range views {
		if p.Reason != "" {
			fmt.Fprintf(a.IO.Err, "port %d: %s\n", p.Port, safe.Line(p.Reason))
		}
	}
	if res.More {
		fmt.Fprintf(a.IO.Err, "vm %q: it listens on more ports than are followed\n", name)
	}
	return nil
}

// portsView is vm ports in JSON.
type portsView struct {
	Name    string     `json:"name"`
	Address string     `json:"address,omitempty"`
	Ports   []portView `json:"ports"`
	More    bool       `json:"more,omitempty"`
	Unknown string     `json:"unknown,omitempty"`
}

// portView is one port.
type portView struct {
	Protocol string `json:"protocol"`
	// Endpoint is a URL for http and https, else host:port; empty: not reached.
	Endpoint       string   `json:"endpoint,omitempty"`
	Port           int      `json:"port"`
	GuestAddresses []string `json:"guest_addresses"`
	HostAddress    string   `json:"host_address,omitempty"`
	HostPort       int      `json:"host_port,omitempty"`
	Published      bool     `json:"published"`
	Reason         string   `json:"reason,omitempty"`
	PID            int      `json:"pid,omitempty"`
	Process        string   `json:"process,omitempty"`
	Command        string   `json:"command,omitempty"`
}

func viewPorts(res *bangerv1.ListPortsResponse, host string) []portView {
	views := make([]portView, 0, len(res.Ports))
	for _, p := range res.Ports {
		v := portView{
			Protocol: p.Protocol, Port: int(p.Port), GuestAddresses: append([]string{}, p.GuestAddresses...),
			HostAddress: p.HostAddress, HostPort: int(p.HostPort), Published: p.Published, Reason: p.Reason,
			PID: int(p.Pid), Process: p.Process, Command: p.Command,
		}
		name := p.HostAddress
		if name == res.GetVm().GetAddress() {
			name = host
		}
		v.Endpoint = endpoint(p.Protocol, name, v.HostPort)
		views = append(views, v)
	}
	return views
}

// endpoint is what a terminal makes a link of.
func endpoint(protocol, host string, port int) string {
	switch {
	case port == 0:
		return ""
	case protocol == "http" && port == 80, protocol == "https" && port == 443:
		return protocol + "://" + bracketed(host)
	case protocol == "http", protocol == "https":
		return protocol + "://" + net.JoinHostPort(host, strconv.Itoa(port))
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func bracketed(host string) string {
	if addr := net.ParseIP(host); addr != nil && addr.To4() == nil {
		return "[" + host + "]"
	}
	return host
}

// resolveTime bounds the question whether this host knows the names of VMs.
const resolveTime = 300 * time.Millisecond

// hostOf is the name of a VM if this host finds it by that, else its address.
func (a *App) hostOf(ctx context.Context, vm *bangerv1.VM) string {
	if vm.GetAddress() == "" || a.quiet {
		return vm.GetAddress()
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	name := vm.GetName() + banger.NameSuffix
	found, err := a.LookupHost(ctx, name)
	if err != nil || !slices.Contains(found, vm.GetAddress()) {
		return vm.GetAddress()
	}
	return name
}
