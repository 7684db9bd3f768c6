package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/trace"
)

// killRPC bounds the wait for a supervisor that is asked to power off, before
// it is ended itself.
const killRPC = 3 * time.Second

// powerOff ends everything that runs the VM, by the supervisor's own door if it
// answers, and waits for the follower to have recorded it.
func (m *machine) powerOff(ctx context.Context) error {
	m.set(func() { m.ending = true })
	if client := m.look().client; client != nil {
		ask, cancel := context.WithTimeout(ctx, killRPC)
		_, err := client.Kill(ask, connect.NewRequest(&vmv1.KillRequest{}))
		cancel()
		if err != nil && ctx.Err() == nil {
			m.d.log.Warn("a supervisor does not power off; it is ended", "vm", m.id, "error", err)
			err = m.endSupervisor(ctx)
		}
		if err != nil {
			return err
		}
	} else if err := m.endSupervisor(ctx); err != nil {
		return err
	}
	if followed := m.look().followed; followed != nil {
		mark := trace.Begin(ctx, "wait for the supervisor's end")
		select {
		case <-followed:
			mark.End()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return trace.Do(ctx, "look for processes left", func() error { return m.d.endProcesses(ctx, m.dir) })
}

// endSupervisor kills the supervisor, if it is known.
func (m *machine) endSupervisor(ctx context.Context) error {
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return m.d.endProcesses(ctx, m.dir)
	}
	if err := proc.Kill(); err != nil {
		return err
	}
	return proc.Wait(ctx)
}

// endProcesses ends every supervisor and VMM that works in dir: supervisors
// first, so that none starts or adopts a VMM meanwhile.
func (d *Daemon) endProcesses(ctx context.Context, dir layout.Instance) error {
	found := process.Working(d.opts.Home.VMs(), d.ours)
	var errs []error
	for _, supervisors := range []bool{true, false} {
		for _, f := range found {
			if (f.Program == layout.Supervisor) == supervisors && instanceOf(d.opts.Home, f.Path) == filepath.Base(dir.Dir()) {
				errs = append(errs, process.End(ctx, f.PID, f.Start))
			}
		}
	}
	if vmm, err := readVMM(dir); err == nil && vmm.alive() {
		errs = append(errs, process.End(ctx, vmm.PID, vmm.StartTime))
	}
	return errors.Join(errs...)
}

// ours accepts the programs that a VM consists of.
func (d *Daemon) ours(program string) bool {
	if program == layout.Supervisor || strings.HasPrefix(program, "qemu-system-") {
		return true
	}
	cfg, err := d.opts.Config()
	return err == nil && cfg.QEMUBin != "" && program == filepath.Base(cfg.QEMUBin)
}

// instanceOf is the id of the VM that a path inside the VMs' directory belongs
// to; unfinished directories belong to the VM they are to become.
func instanceOf(home layout.Home, path string) string {
	rest, ok := strings.CutPrefix(path, home.VMs()+"/")
	if !ok {
		return ""
	}
	id, _, _ := strings.Cut(rest, "/")
	return strings.TrimPrefix(id, layout.TempPrefix)
}
