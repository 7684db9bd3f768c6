package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/client"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// shutdownWithin bounds the wait for a daemon that was asked to end.
const shutdownWithin = 20 * time.Second

// daemonOptions are the flags of the daemon commands.
type daemonOptions struct{ app *App }

// newDaemon is the group of commands on the daemon.
func (a *App) newDaemon() *cobra.Command {
	cmd := newGroup("daemon", "Start, stop and look at the daemon", "banger daemon status", "banger daemon restart    # after an upgrade: VMs and their commands go on")
	simple := func(name, short string, run func(context.Context, *daemonOptions) error) *cobra.Command {
		opts := &daemonOptions{app: a}
		return &cobra.Command{Use: name, Short: short, Args: none, Example: examples("banger daemon " + name),
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) }}
	}
	cmd.AddCommand(
		simple("start", "Start the daemon (other commands do it by themselves)", runDaemonStart),
		simple("stop", "Stop the daemon; VMs go on", runDaemonStop),
		simple("restart", "Stop the daemon and start it again; VMs go on", runDaemonRestart),
		simple("status", "Show the daemon's process, build and socket", runDaemonStatus),
		a.newDaemonLogs(nil))
	return cmd
}

func runDaemonStart(ctx context.Context, opts *daemonOptions) error {
	home, err := opts.app.Home()
	if err != nil {
		return err
	}
	c := client.New(home, client.Options{})
	defer c.Close()
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	return opts.app.showStatus(status)
}

func runDaemonStop(ctx context.Context, opts *daemonOptions) error {
	a := opts.app
	stopped, err := a.stopDaemon(ctx)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(map[string]any{"running": false, "stopped": stopped})
	case a.quiet:
		return nil
	case !stopped:
		return a.println("the daemon was not running")
	}
	return a.println("the daemon has stopped; VMs go on")
}

func runDaemonRestart(ctx context.Context, opts *daemonOptions) error {
	if _, err := opts.app.stopDaemon(ctx); err != nil {
		return err
	}
	return runDaemonStart(ctx, opts)
}

// stopDaemon asks the daemon to end and waits until its process is gone. It
// reports false if none ran.
func (a *App) stopDaemon(ctx context.Context) (bool, error) {
	c, err := a.running()
	if err != nil {
		return false, err
	}
	defer c.Close()
	status, err := c.Status(ctx)
	if isNotRunning(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	process, err := unix.PidfdOpen(int(status.Pid), 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return false, banger.Errorf(banger.CodeFailed, "daemon process %d: %w", status.Pid, err)
	}
	if err := c.Shutdown(ctx); err != nil && !isNotRunning(err) {
		if process >= 0 {
			unix.Close(process)
		}
		return false, err
	}
	if process < 0 {
		return true, nil
	}
	defer unix.Close(process)
	return true, awaitEnd(ctx, process, status.Pid)
}

// isNotRunning tells a daemon that is not there from one that does not answer.
func isNotRunning(err error) bool {
	return errors.Is(err, client.ErrNotRunning)
}

// awaitEnd waits for the end of a process. It looks up now and then to see
// whether the wait has been given up.
func awaitEnd(ctx context.Context, pidfd int, pid int32) error {
	limited, cancel := context.WithTimeout(ctx, shutdownWithin)
	defer cancel()
	for limited.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return banger.Errorf(banger.CodeTimeout, "the daemon (pid %d) did not end within %s", pid, shutdownWithin).
		WithHint("banger daemon logs")
}

func runDaemonStatus(ctx context.Context, opts *daemonOptions) error {
	a := opts.app
	c, err := a.running()
	if err != nil {
		return err
	}
	defer c.Close()
	status, err := c.Status(ctx)
	if isNotRunning(err) && a.json {
		if err := a.printJSON(map[string]any{"running": false}); err != nil {
			return err
		}
		return withCode(banger.CodeUnavailable.ExitCode())
	}
	if err != nil {
		return err
	}
	return a.showStatus(status)
}

// statusView is the daemon in JSON.
type statusView struct {
	Running    bool         `json:"running"`
	PID        int32        `json:"pid"`
	Build      banger.Build `json:"build"`
	Socket     string       `json:"socket"`
	VMsAdopted int32        `json:"vms_adopted"`
	Started    string       `json:"started"`
	Log        string       `json:"log"`
	Spares     int32        `json:"spares"`
	MaxSpares  int32        `json:"max_spares"`
	// DNS is where names in .vm are answered; empty: nowhere, for DNSError.
	DNS      string `json:"dns,omitempty"`
	DNSError string `json:"dns_error,omitempty"`
}

// describeSpares says how many VMs wait to be somebody's.
func describeSpares(s *bangerv1.StatusResponse) string {
	if s.MaxSpares == 0 && s.Spares == 0 {
		return "none are kept (see [spares] in config.toml)"
	}
	return fmt.Sprintf("%d wait, at most %d", s.Spares, s.MaxSpares)
}

// describeNames says where the names of VMs are answered.
func describeNames(s *bangerv1.StatusResponse) string {
	if s.DnsAddress == "" {
		return "not answered: " + safe.Line(orDash(s.DnsError))
	}
	return banger.NameSuffix + " is answered at " + s.DnsAddress
}

func (a *App) showStatus(s *bangerv1.StatusResponse) error {
	build := banger.Build{Version: s.GetBuild().GetVersion(), Commit: s.GetBuild().GetCommit(), Time: s.GetBuild().GetTime()}
	switch {
	case a.json:
		return a.printJSON(statusView{true, s.Pid, build, s.Socket, s.VmsAdopted, when(s.StartedUnixMs), s.Log, s.Spares, s.MaxSpares, s.DnsAddress, s.DnsError})
	case a.quiet:
		return a.println(fmt.Sprint(s.Pid))
	}
	if err := a.println(fmt.Sprintf("pid:     %d, up %s\nbuild:   %s (commit %s, %s)\nsocket:  %s\nlog:     %s\nVMs:     %d adopted\nspares:  %s\nnames:   %s",
		s.Pid, age(a.Now(), s.StartedUnixMs), build.Version, build.Commit, build.Time, s.Socket, s.Log, s.VmsAdopted, describeSpares(s), describeNames(s))); err != nil {
		return err
	}
	a.compareBuilds(build)
	return nil
}
