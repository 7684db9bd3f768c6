package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// AgentName is argv[0] of the agent. systemd spares processes whose name begins
// with '@' when it kills what is left at shutdown (systemd.io, ROOT_STORAGE_DAEMONS).
const AgentName = "@banger-agent"

// Descriptors that the agent is started with. It writes one byte to IdentifiedFD
// when the identity is applied, and reads one from CompleteFD when the root is
// complete.
const (
	IdentifiedFD = 3
	CompleteFD   = 4
)

// CgroupRoot is where the agent makes a cgroup for each command.
const CgroupRoot = "/sys/fs/cgroup/banger"

// agentProcess is the agent, seen from PID 1.
type agentProcess struct {
	pid                int
	identified, rooted *os.File
}

// startAgent starts this program again as the agent, with the directory root as
// its root, in a cgroup of its own: systemd leaves alone what it finds there.
func startAgent(root, kind string) (*agentProcess, error) {
	attr := &syscall.SysProcAttr{Setsid: true, Chroot: root}
	if cgroup, err := makeCgroups(root + CgroupRoot); err != nil {
		fmt.Fprintf(os.Stderr, "banger: commands run without cgroups: %v\n", err)
	} else {
		defer cgroup.Close()
		attr.UseCgroupFD, attr.CgroupFD = true, int(cgroup.Fd())
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	identified, theirIdentified, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIdentified.Close()
	theirRooted, rooted, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirRooted.Close()
	defer slacken()()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{AgentName, kind}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   agentEnviron(),
		Files: []uintptr{null.Fd(), 1, 2, theirIdentified.Fd(), theirRooted.Fd()},
		Sys:   attr,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start the agent: %w", err)
	}
	// A guest out of memory that loses its agent could not be reached any more.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("-1000"), 0)
	return &agentProcess{pid: pid, identified: identified, rooted: rooted}, nil
}

// agentEnviron is the agent's environment, which its commands do not inherit.
// Its goroutines wait often enough without being interrupted by signals, which
// cost an emulated guest that just woke 2 ms each.
func agentEnviron() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"GODEBUG=asyncpreemptoff=1",
	}
}

// slack is how late the agent's timers may be. Go's runtime wakes a thread of its
// own every 20 to 70 µs while it works, to look after the others; that took half
// of an emulated processor whenever the agent had something to do. With slack it
// wakes with the next tick.
const slack = 5 * time.Millisecond

// slacken lets the timers of what this thread starts be late (timerslack in
// prctl(2)), until the function that it returns is called.
func slacken() (restore func()) {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // what it had at first
		runtime.UnlockOSThread()
	}
}

// waitIdentified returns when the agent has applied the VM's identity.
func (a *agentProcess) waitIdentified() error {
	defer a.identified.Close()
	if _, err := a.identified.Read(make([]byte, 1)); err != nil {
		return errors.New("the agent ended before it knew which VM this is")
	}
	return nil
}

// complete tells the agent that all of the root is there.
func (a *agentProcess) complete() error {
	defer a.rooted.Close()
	if _, err := a.rooted.Write([]byte{1}); err != nil {
		return fmt.Errorf("the agent ended before its root was complete: %w", err)
	}
	return nil
}

// AwaitComplete returns when PID 1 has completed the root, or ctx ends. It is the
// agent's side of complete, and may be called once.
func AwaitComplete(ctx context.Context) error {
	if err := unix.SetNonblock(CompleteFD, true); err != nil {
		return err
	}
	told := os.NewFile(CompleteFD, "complete")
	defer told.Close()
	stop := context.AfterFunc(ctx, func() { told.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := told.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("the root is not complete: %w", err)
	}
	return nil
}

// makeCgroups makes the agent's cgroup below root, and has the kernel account
// memory and processes of the commands beside it.
func makeCgroups(root string) (*os.File, error) {
	dir := root + "/agent"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, parent := range []string{root + "/..", root} {
		for _, controller := range []string{"+memory", "+pids"} {
			// A kernel without a controller is no reason to go without the rest.
			_ = os.WriteFile(parent+"/cgroup.subtree_control", []byte(controller), 0)
		}
	}
	return os.Open(dir)
}
