// Command fakehost is three programs of a host without virtual machines, by the
// name it is called: bangerd, banger-vm and qemu-system-x86_64.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/daemon"
	"github.com/banger-dev/banger/internal/daemon/daemontest"
	"github.com/banger-dev/banger/internal/layout"
)

func main() {
	var err error
	switch name := filepath.Base(os.Args[0]); {
	case strings.HasPrefix(name, "qemu-system-"):
		daemontest.VMM()
	case name == "banger-vm":
		err = supervise(os.Args[1], os.Args[2:])
	default:
		err = serve()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(banger.CodeOf(err).ExitCode())
	}
}

// supervise is banger-vm.
func supervise(verb string, args []string) error {
	switch verb {
	case "template":
		return daemontest.MakeTemplate(args[0])
	case "fingerprint":
		return daemontest.Fingerprint(os.Stdout)
	}
	return daemontest.Supervise(args)
}

// load is what the environment says.
func load() (n float64, err error) {
	if text := os.Getenv(daemontest.LoadVar); text != "" {
		_, err = fmt.Sscan(text, &n)
	}
	return n, err
}

func serve() error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	home, err := layout.FromEnv(os.Getenv)
	if err != nil {
		return err
	}
	bin := filepath.Dir(os.Args[0])
	grace := daemon.LeaseGrace
	if text := os.Getenv("BANGER_TEST_GRACE"); text != "" {
		if grace, err = time.ParseDuration(text); err != nil {
			return err
		}
	}
	return daemon.Run(ctx, daemon.Options{
		Home: home, Host: config.Host{CPUs: 4, MemoryBytes: 8 * banger.GiB}, LeaseGrace: grace,
		Load:       load,
		Available:  func() (int64, error) { return 8 * banger.GiB, nil },
		Config:     func() (config.Config, error) { return config.Load(home) },
		Assets:     daemontest.Assets(home, filepath.Join(bin, "qemu-system-x86_64")),
		Supervisor: filepath.Join(bin, "banger-vm"),
		Log:        slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
}
