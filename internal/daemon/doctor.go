package daemon

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/doctor"
	"github.com/banger-dev/banger/internal/initramfs"
	"github.com/banger-dev/banger/internal/kernel"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/vmhost"
)

// mainDoctor checks the host in this process: no daemon is needed, and none is
// started.
func mainDoctor(ctx context.Context, args []string, env Env) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	asJSON := flags.Bool("json", false, "one JSON document")
	repair := flags.Bool("repair", false, "remove leftovers")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return banger.Errorf(banger.CodeUsage, "usage: bangerd doctor [--json] [--repair]")
	}
	home, err := layout.FromEnv(env.Getenv)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(env.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	report := doctor.Run(ctx, doctor.Options{
		Home: home, Host: config.HostFacts(), Repair: *repair, Log: log, Getenv: env.Getenv,
		Probe: func(ctx context.Context) (vmhost.Found, error) { return doctorProbe(ctx, home, log) },
	})
	if *asJSON {
		out := json.NewEncoder(env.Stdout)
		out.SetIndent("", "  ")
		err = out.Encode(report)
	} else {
		_, err = io.WriteString(env.Stdout, report.String())
	}
	if err == nil && report.Failed() {
		return banger.Errorf(banger.CodeUnavailable, "something that is needed fails")
	}
	return err
}

// doctorProbe asks with the default kernel, if that is here already.
func doctorProbe(ctx context.Context, home layout.Home, log *slog.Logger) (vmhost.Found, error) {
	supervisor, err := layout.Companion(layout.Supervisor)
	if err != nil {
		return vmhost.Found{}, err
	}
	cfg, err := config.Load(home)
	if err != nil {
		return vmhost.Found{}, err
	}
	q := vmhost.Question{Supervisor: supervisor, QEMU: cfg.QEMUBin}
	kernels, err := kernel.New(kernel.Options{Home: home, Log: log}).List()
	if err != nil || len(kernels) == 0 {
		return vmhost.Ask(ctx, q)
	}
	agent := filepath.Join(filepath.Dir(supervisor), "banger-agent")
	k := kernels[0]
	q.Initrd, err = initramfs.Ensure(ctx, home, initramfs.Kernel{SHA256: k.SHA256, Modules: k.Modules()}, agent)
	if err != nil {
		return vmhost.Found{}, fmt.Errorf("initramfs of kernel %q: %w", k.Name, err)
	}
	q.Kernel = k.Vmlinux()
	return vmhost.Ask(ctx, q)
}
