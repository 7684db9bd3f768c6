package boot

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

// Signals by which the agent asks PID 1 to end the VM. systemd's are those of
// systemd(1): SIGRTMIN+4 and SIGRTMIN+5.
const (
	PowerOffSignal        = syscall.SIGTERM
	RebootSignal          = syscall.SIGINT
	SystemdPowerOffSignal = syscall.Signal(34 + 4)
	SystemdRebootSignal   = syscall.Signal(34 + 5)
)

const (
	// stopGrace is how long processes have after SIGTERM.
	stopGrace = 10 * time.Second
	// killGrace is how long the kernel has to end them after SIGKILL.
	killGrace = 2 * time.Second
	stopPoll  = 50 * time.Millisecond
)

// catchSignals has PID 1 asked to end the VM by a signal that may come as soon as
// the agent has answered: not caught, it would end PID 1 and the kernel with it.
// systemd, whose handlers are its own, is asked again by the agent.
func catchSignals() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, PowerOffSignal, RebootSignal, SystemdPowerOffSignal, SystemdRebootSignal,
		syscall.SIGPWR, syscall.SIGUSR1, syscall.SIGUSR2) // the last two: busybox's halt and poweroff
	return signals
}

// serveAsInit is PID 1 of an image without systemd. It returns only with the
// error that ended the agent.
func serveAsInit(agent int, signals <-chan os.Signal) error {
	for {
		// Before each wait: one signal may stand for many children.
		if status, ended := reap(agent); ended {
			stopAll(agent)
			return fmt.Errorf("the agent ended: %s", describe(status))
		}
		switch s := <-signals; s {
		case syscall.SIGCHLD:
		case RebootSignal, SystemdRebootSignal:
			stopAll(agent)
			powerOff(true)
		default:
			stopAll(agent)
			powerOff(false)
		}
	}
}

// reap waits for every child that has ended, and reports whether the agent was
// among them.
func reap(agent int) (status syscall.WaitStatus, ended bool) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil || pid <= 0:
			return status, ended
		case pid == agent:
			status, ended = ws, true
		}
	}
}

func describe(ws syscall.WaitStatus) string {
	if ws.Signaled() {
		return fmt.Sprintf("signal %d", ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// stopAll ends all processes: SIGTERM, a grace, SIGKILL. The agent, which holds
// the output of commands, goes last.
func stopAll(agent int) {
	_ = syscall.Kill(-1, syscall.SIGTERM)
	_ = syscall.Kill(-1, syscall.SIGCONT)
	waitAlone(stopGrace, agent)
	_ = syscall.Kill(-1, syscall.SIGKILL)
	waitAlone(killGrace, 0)
}

// waitAlone reaps until no process but the agent is left, or for limit.
func waitAlone(limit time.Duration, agent int) {
	tick := time.NewTicker(stopPoll)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); <-tick.C {
		reap(agent)
		if !others("/proc", agent) {
			return
		}
	}
}

// others reports whether a process other than PID 1, the agent and the kernel's
// own threads, which have no command line, is alive.
func others(proc string, agent int) bool {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == agent {
			continue
		}
		if line, err := os.ReadFile(proc + "/" + e.Name() + "/cmdline"); err == nil && len(line) > 0 {
			return true
		}
	}
	return false
}
