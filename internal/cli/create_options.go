package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/config"
)

// createOptions are the flags of a new VM, of vm run and vm create.
type createOptions struct {
	name, image, kernel           string
	vcpu                          int
	memory, disk, overlay         string
	nat, natSet, vcpuSet          bool
	driver, accel                 string
	timeout                       time.Duration
	nameSet, imageSet, timeoutSet bool
	cold, verbose                 bool
	publish                       []string
	policy                        policyOptions
	ttl                           string
}

// addFlags adds the flags to cmd; its help shows the defaults as they resolve
// on this host.
func (o *createOptions) addFlags(a *App, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.name, "name", "", "name of the VM (default a readable random one)")
	flags.StringVar(&o.image, "image", "", "image, by name")
	flags.StringVar(&o.kernel, "kernel", "", "kernel, by name (default the image's)")
	flags.IntVar(&o.vcpu, "vcpu", 0, "virtual CPUs")
	flags.StringVar(&o.memory, "memory", "", "memory: 512M, 2G; a bare number means MiB")
	flags.StringVar(&o.disk, "disk-size", "", "size of the disk at /root, as 8G; sparse on the host")
	flags.StringVar(&o.overlay, "system-overlay-size", "", "size of the disk that holds changes of the system, as 8G")
	flags.BoolVar(&o.nat, "nat", true, "let the VM reach the network; with --nat=false nothing leaves it")
	flags.StringArrayVar(&o.publish, "publish", nil, "lead a port of this host into the VM, for everybody who reaches it: `[ADDR:]HOST:GUEST`, ADDR 127.0.0.1 (repeatable)")
	o.policy.addFlags(flags)
	flags.StringVar(&o.driver, "driver", "", "what runs the VM: auto or qemu")
	flags.StringVar(&o.accel, "accel", "", "acceleration: auto, kvm or tcg (emulation)")
	flags.BoolVar(&o.cold, "cold", false, "boot, even if there is a template to start from")
	flags.StringVar(&o.ttl, "ttl", "", "delete the VM this `time` after its creation, running or not: 90m, 2h, 7d (default never)")
	addVerbose(flags, &o.verbose)
	flags.DurationVar(&o.timeout, "timeout", defaultReady, "how long to wait for the guest to be ready")
	a.completeFlag(cmd, "image", a.imageNames)
	a.completeFlag(cmd, "kernel", a.kernelNames)
	a.helpWithDefaults(cmd)
}

// helpWithDefaults makes the help of cmd show the defaults of this host.
func (a *App) helpWithDefaults(cmd *cobra.Command) {
	help := cmd.HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		a.showDefaults(cmd)
		help(cmd, args)
	})
}

// booted is why a new VM boots where the daemon does not say.
func (o *createOptions) booted() string {
	if o.cold {
		return "--cold was given"
	}
	return "there is no template of this image and shape yet"
}

// take notes which flags were given.
func (o *createOptions) take(cmd *cobra.Command) {
	changed := cmd.Flags().Changed
	o.natSet, o.vcpuSet, o.nameSet, o.imageSet, o.timeoutSet =
		changed("nat"), changed("vcpu"), changed("name"), changed("image"), changed("timeout")
}

// showDefaults puts the resolved defaults into the help of cmd.
func (a *App) showDefaults(cmd *cobra.Command) {
	home, err := a.Home()
	if err != nil {
		return
	}
	cfg, err := config.Load(home)
	if err != nil {
		fmt.Fprintf(a.IO.Err, "banger: %v\n", err)
	}
	d := config.Resolve(cfg, config.HostFacts())
	for flag, text := range map[string]string{
		"image":               d.Image.Value,
		"vcpu":                fmt.Sprint(d.VCPU.Value),
		"memory":              fmt.Sprintf("%d MiB", d.MemoryMiB.Value),
		"disk-size":           banger.FormatSize(d.DiskBytes.Value),
		"system-overlay-size": banger.FormatSize(d.OverlayBytes.Value),
		"driver":              d.Driver.Value,
		"accel":               d.Accel.Value,
		"nat":                 fmt.Sprint(d.NAT.Value),
	} {
		if f := cmd.Flags().Lookup(flag); f != nil {
			f.DefValue = ""
			f.Usage += " (default " + text + ")"
			if flag == "nat" || flag == "vcpu" {
				f.DefValue = "false" // a zero, which is not shown
			}
			if flag == "vcpu" {
				f.DefValue = "0"
			}
		}
	}
}

// request checks the flags and says them to the daemon, which fills in the
// defaults.
func (o *createOptions) request(a *App) (*bangerv1.CreateVMRequest, error) {
	if err := o.check(a); err != nil {
		return nil, err
	}
	req := &bangerv1.CreateVMRequest{
		Name: o.name, Image: o.image, Kernel: o.kernel, Vcpu: int32(o.vcpu),
		Driver: o.driver, Accel: o.accel, TimeoutMs: o.timeout.Milliseconds(),
		Cold: o.cold,
	}
	if o.natSet {
		req.Nat = &o.nat
	}
	for _, text := range o.publish {
		p, err := banger.ParsePublish(text)
		if err != nil {
			return nil, flagError("--publish", err)
		}
		req.Publish = append(req.Publish, &bangerv1.Publish{
			Address: p.Host.Addr().String(), HostPort: uint32(p.Host.Port()), GuestPort: uint32(p.Guest),
		})
	}
	if o.natSet && !o.nat && o.policy.given() {
		return nil, banger.Errorf(banger.CodeUsage, "with --nat=false nothing leaves the VM: there is nothing to allow").
			WithHint("either --nat=false, or --allow and --policy")
	}
	ttl, err := parseSpan("--ttl", o.ttl)
	if err != nil {
		return nil, err
	}
	req.TtlMs, req.Allow = ttl.Milliseconds(), o.policy.allow
	if req.Policy, err = o.policy.read(); err != nil {
		return nil, err
	}
	return req, o.sizes(req)
}

// sizes puts the sizes that were asked for into req.
func (o *createOptions) sizes(req *bangerv1.CreateVMRequest) (err error) {
	if req.MemoryMib, err = memorySize("--memory", o.memory); err != nil {
		return err
	}
	if req.DiskBytes, err = diskSize("--disk-size", o.disk); err != nil {
		return err
	}
	req.OverlayBytes, err = diskSize("--system-overlay-size", o.overlay)
	return err
}

func (o *createOptions) check(a *App) error {
	home, err := a.Home()
	if err != nil {
		return err
	}
	if _, err := config.Load(home); err != nil {
		return err
	}
	if o.nameSet {
		if err := banger.CheckName("vm", o.name); err != nil {
			return err
		}
	}
	if o.vcpuSet {
		if err := checkVCPU(o.vcpu); err != nil {
			return err
		}
	}
	if o.timeout <= 0 {
		return banger.Errorf(banger.CodeUsage, "--timeout %s is not a time to wait", o.timeout).WithHint("--timeout 90s")
	}
	if err := oneOf("--driver", o.driver, "auto", "qemu"); err != nil {
		return err
	}
	return oneOf("--accel", o.accel, "auto", "kvm", "tcg")
}

func checkVCPU(n int) error {
	if n < 1 || n > 255 {
		return banger.Errorf(banger.CodeUsage, "--vcpu %d is not between 1 and 255", n).WithHint("--vcpu 1")
	}
	return nil
}

func oneOf(flag, value string, known ...string) error {
	if value == "" || slices.Contains(known, value) {
		return nil
	}
	return banger.Errorf(banger.CodeUsage, "%s %q is not one of %s", flag, value, strings.Join(known, ", ")).
		WithHint("%s %s", flag, known[0])
}

// memorySize is 0 for a flag that was not given.
func memorySize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := banger.ParseMemory(text)
	if err == nil && n <= 0 {
		err = banger.Errorf(banger.CodeUsage, "memory %q is less than 1 MiB", text).WithHint("512M or 8G")
	}
	return n, flagError(flag, err)
}

// diskSize is 0 for a flag that was not given.
func diskSize(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := banger.ParseSize(text)
	if err == nil && n <= 0 {
		err = banger.Errorf(banger.CodeUsage, "size %q is nothing", text).WithHint("512M or 8G")
	}
	return n, flagError(flag, err)
}

// flagError says which flag err is about.
func flagError(flag string, err error) error {
	if ours, ok := err.(*banger.Error); ok {
		ours.Message = flag + ": " + ours.Message
	}
	return err
}
