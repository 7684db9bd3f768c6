package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/logfile"
)

const (
	// gcPercent and memoryLimit (bytes) keep the idle daemon small; the limit
	// is soft, and an image build may go beyond it.
	gcPercent   = 40
	memoryLimit = 32 << 20
)

// Env is what a program is given by whoever runs it.
type Env struct {
	Getenv         func(string) string
	Stdout, Stderr io.Writer
}

// Main runs bangerd with the given arguments and returns its exit code.
//
//	bangerd            serves until SIGTERM or Shutdown
//	bangerd doctor     checks this host without a daemon: [--json] [--repair]
//	bangerd version
func Main(args []string, env Env) int {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer cancel()
	err := dispatch(ctx, args, env)
	if err == nil {
		return 0
	}
	fmt.Fprintln(env.Stderr, "bangerd:", err)
	return banger.CodeOf(err).ExitCode()
}

func dispatch(ctx context.Context, args []string, env Env) error {
	verb := "serve"
	if len(args) > 0 {
		verb, args = args[0], args[1:]
	}
	switch verb {
	case "serve":
		if len(args) == 0 {
			return serveHome(ctx, env)
		}
	case "doctor":
		return mainDoctor(ctx, args, env)
	case "version", "--version":
		_, err := fmt.Fprintln(env.Stdout, banger.BuildStamp())
		return err
	}
	return banger.Errorf(banger.CodeUsage, "bangerd is started by banger; it knows: serve, doctor [--json] [--repair], version")
}

// serveHome runs the daemon of this user.
func serveHome(ctx context.Context, env Env) error {
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	home, err := layout.FromEnv(env.Getenv)
	if err != nil {
		return err
	}
	if err := PrepareState(home); err != nil {
		return err
	}
	file, err := logfile.Open(home.DaemonLog(), maxLog)
	if err != nil {
		return banger.Errorf(banger.CodeUnavailable, "the daemon's log cannot be written: %w", err)
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(file, nil))
	opts, err := hostOptions(home, log)
	if err == nil {
		err = Run(ctx, opts)
	}
	if err != nil {
		log.Error("daemon does not serve", "error", err)
	}
	return err
}

// maxLog bounds the daemon's log in bytes.
const maxLog = 4 << 20

// hostOptions puts the daemon of this host together.
func hostOptions(home layout.Home, log *slog.Logger) (Options, error) {
	cfg := func() (config.Config, error) { return config.Load(home) }
	supervisor, err := layout.Companion(layout.Supervisor)
	if err != nil {
		return Options{}, err
	}
	agent, err := layout.Companion("banger-agent")
	if err != nil {
		return Options{}, err
	}
	return Options{
		Home: home, Config: cfg, Host: config.HostFacts(), Supervisor: supervisor,
		Assets: hostAssets(home, cfg, binaries{supervisor, agent}, log), Log: log, LeaseGrace: LeaseGrace, Load: hostLoad, Available: config.MemoryAvailable,
	}, nil
}

// hostLoad is the load of the last minute.
func hostLoad() (load float64, err error) {
	data, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, err = fmt.Sscan(string(data), &load)
	}
	return load, err
}

// HostEnv is the environment of this process.
func HostEnv() Env { return Env{os.Getenv, os.Stdout, os.Stderr} }
