package boot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// AgentName is argv[0] of the agent. systemd spares processes whose name begins
// with '@' when it kills what is left at shutdown (systemd.io, ROOT_STORAGE_DAEMONS).
const AgentName = "@banger-agent"

// IdentifiedFD is where the agent writes one byte when the identity is applied.
const IdentifiedFD = 3

// CgroupRoot is where the agent makes a cgroup for each command.
const CgroupRoot = "/sys/fs/cgroup/banger"

// agentProcess is the agent, seen from PID 1.
type agentProcess struct {
	pid        int
	identified *os.File
}

// startAgent starts this program again as the agent, in a cgroup of its own:
// systemd leaves alone what it finds there.
func startAgent(kind string) (*agentProcess, error) {
	attr := &syscall.SysProcAttr{Setsid: true}
	if cgroup, err := makeCgroups(CgroupRoot); err != nil {
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
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{AgentName, kind}, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Files: []uintptr{null.Fd(), 1, 2, w.Fd()},
		Sys:   attr,
	})
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("cannot start the agent: %w", err)
	}
	// A guest out of memory that loses its agent could not be reached any more.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("-1000"), 0)
	return &agentProcess{pid: pid, identified: r}, nil
}

// waitIdentified returns when the agent has applied the VM's identity.
func (a *agentProcess) waitIdentified() error {
	defer a.identified.Close()
	if _, err := a.identified.Read(make([]byte, 1)); err != nil {
		return errors.New("the agent ended before it knew which VM this is")
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
