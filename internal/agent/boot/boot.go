// Package boot is the guest's first process: /init of the initramfs.
//
// It loads the kernel's modules, puts the root together from the base and overlay
// disks, starts the agent in it, and waits until the agent has applied the VM's
// identity and answered. What the answer does not need comes then: the network's
// driver, the work disk, the volumes. Then it becomes the image's own systemd or,
// in an image without, stays as PID 1: it reaps orphans and shuts the VM down.
//
//	/init ─→ modules ─→ disks ─→ root ─→ agent ─→ answer ─→ late modules, /root ─┬→ exec systemd
//	   └──────────┴────────┴───────┴───────┴────────────────┴───────┐            └→ PID 1 ─→ power off
//	                                       fatal: a line on the console, power off
package boot

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/banger-dev/banger/internal/agent/disks"
	"golang.org/x/sys/unix"
)

// Init kinds, as the agent reports them.
const (
	Systemd = "systemd"
	None    = "none"
)

// deviceTimeout bounds the wait for disks. They are there when their driver
// is, so only a VMM that gives none runs into it.
const deviceTimeout = 30 * time.Second

// Run is PID 1. It never returns: it becomes another program, or powers the
// VM off.
func Run() {
	defer func() {
		if cause := recover(); cause != nil {
			fatal(fmt.Errorf("init failed: %v\n%s", cause, debug.Stack()))
		}
	}()
	fatal(run())
}

// fatal says what went wrong where the supervisor keeps it, and ends the VM.
func fatal(err error) {
	fmt.Fprintf(os.Stderr, "banger: %v\n", err)
	powerOff(false)
}

// run returns only with an error.
func run() error {
	signals := catchSignals()
	if err := earlyMounts(); err != nil {
		return err
	}
	late, err := loadModules("/modules")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), deviceTimeout)
	defer cancel()
	devices, err := disks.Find(ctx, "/sys/block", disks.Base, disks.Overlay, disks.Work)
	if err != nil {
		return err
	}
	if err := mountRoot(devices); err != nil {
		return err
	}
	init, kind := findInit(newRoot)
	agent, err := startAgent(newRoot, kind)
	if err != nil {
		return err
	}
	if err := agent.waitIdentified(); err != nil {
		return err
	}
	loadLate(late)
	if err := completeRoot(devices); err != nil {
		return err
	}
	if err := switchRoot(newRoot); err != nil {
		return err
	}
	if err := agent.complete(); err != nil {
		return err
	}
	return become(init, kind, agent.pid, signals)
}

// become goes on as the image's init, or as our own.
func become(init, kind string, agent int, signals <-chan os.Signal) error {
	if kind != Systemd {
		return serveAsInit(agent, signals)
	}
	if err := installFinisher("/", agent); err != nil {
		fmt.Fprintf(os.Stderr, "banger: disks may need a check after shutdown: %v\n", err)
	}
	err := syscall.Exec(init, []string{init}, os.Environ())
	return fmt.Errorf("cannot start %s: %w", init, err)
}

// earlyMounts gives this process the kernel's file systems and a console.
func earlyMounts() error {
	for _, m := range []mount{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := m.do(); err != nil {
			return err
		}
	}
	console, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // a kernel without a console has nobody to talk to
	}
	for fd := range 3 {
		_ = unix.Dup3(console, fd, 0)
	}
	return unix.Close(console)
}
