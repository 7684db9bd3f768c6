// Package agent is the program inside a guest: PID 1 of the boot (package
// boot), and then the agent that the supervisor speaks to.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/banger-dev/banger/internal/agent/boot"
	"github.com/banger-dev/banger/internal/agent/copying"
	"github.com/banger-dev/banger/internal/agent/identity"
	"github.com/banger-dev/banger/internal/agent/link"
	"github.com/banger-dev/banger/internal/agent/process"
	"github.com/banger-dev/banger/internal/agent/service"
	"github.com/banger-dev/banger/internal/agent/sshd"
)

// Main is whichever of its programs this process is to be, and returns its
// exit code.
func Main(args []string) int {
	switch {
	case os.Getpid() == 1:
		boot.Run()
	case args[0] == boot.AgentName:
		return exitCode(serve(args[1:]))
	case args[0] == sshd.SFTPName:
		return exitCode(sshd.ServeSFTP(os.Stdin, os.Stdout))
	case strings.HasPrefix(args[0], process.BuiltinPrefix):
		return builtin(strings.TrimPrefix(args[0], process.BuiltinPrefix), args[1:])
	case len(args) > 1 && args[1] == boot.FinishVerb:
		boot.Finish(args[len(args)-1])
		return 0
	}
	fmt.Fprintln(os.Stderr, "banger-agent runs inside a VM, as /init of its initramfs")
	return 2
}

// builtin is one of the programs that the exec door has besides the guest's own.
func builtin(name string, args []string) int {
	if name == copying.Name {
		return copying.Main(args, os.Stdin, os.Stdout, os.Stderr)
	}
	fmt.Fprintf(os.Stderr, "banger: this guest's agent has no program %q\n", name)
	return 127
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(os.Stderr, "banger: %v\n", err)
	return 1
}

// serve is the agent. It ends with the guest.
func serve(args []string) error {
	if len(args) != 1 {
		return errors.New("the agent was not told the guest's init")
	}
	catchSignals()
	console := newConsole(os.Stderr)
	defer console.Close()
	log := slog.New(slog.NewTextHandler(console, &slog.HandlerOptions{ReplaceAttr: consoleAttr}))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	ctl, err := link.OpenPort(ctx, link.CtlPort)
	if err != nil {
		return fmt.Errorf("cannot open the guest link: %w", err)
	}
	data, err := link.OpenPort(ctx, link.DataPort)
	if err != nil {
		ctl.Close()
		return fmt.Errorf("cannot open the guest link: %w", err)
	}
	processes := process.NewManager(process.Options{CgroupRoot: commandCgroups(), Log: log})
	defer processes.Close()
	random, err := identity.OpenRandom()
	if err != nil {
		return err
	}
	g := &guest{
		random: random, processes: processes, log: log,
		identified: os.NewFile(boot.IdentifiedFD, "identified"),
		online:     make(chan struct{}), ctx: ctx,
	}
	defer g.setup.Wait()
	defer cancel()
	if g.rpc, err = service.New(ctx, service.Options{Init: args[0], Warm: g.warm, Random: random, Log: log}); err != nil {
		return err
	}
	defer g.rpc.Wait()
	fmt.Fprintf(console, "banger: agent is up\n")
	return link.NewServer(ctl, data, g, log).Serve(ctx)
}

// catchSignals has the agent outlive what ends the guest's other processes: it
// holds their output. Caught and not ignored, because commands would inherit
// that.
func catchSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
}

// commandCgroups is where commands get their cgroups; empty without cgroups.
func commandCgroups() string {
	if _, err := os.Stat(boot.CgroupRoot); err != nil {
		return ""
	}
	return boot.CgroupRoot
}
