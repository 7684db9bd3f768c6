package daemon

import (
	"context"
	"syscall"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/store"
)

// maxSignal is the last signal of a Linux guest.
const maxSignal = 64

// errKilled interrupts an operation on a VM that is to be powered off.
func errKilled(name string) error {
	return banger.Errorf(banger.CodeInterrupted, "vm %q is being killed", name)
}

// kill powers a VM off at once, or tells its guest of a signal.
func (d *Daemon) kill(ctx context.Context, req *bangerv1.KillVMRequest) (*bangerv1.VM, error) {
	if req.Signal < 0 || req.Signal > maxSignal {
		return nil, banger.Errorf(banger.CodeUsage, "signal %d does not exist: 1 to %d", req.Signal, maxSignal)
	}
	m, err := d.resolve(req.Ref)
	if err != nil {
		return nil, err
	}
	if now := m.settled(ctx); !now.following() {
		return nil, m.notRunning()
	}
	if sig := syscall.Signal(req.Signal); sig != 0 && sig != syscall.SIGKILL {
		return m.tell(ctx, sig)
	}
	if m.look().rec.State == banger.StateCreating {
		return nil, m.errorf(banger.CodeWrongState, "is being created").WithHint("banger vm delete -f %s", m.look().rec.Name)
	}
	m.interruptOperation(errKilled(m.look().rec.Name))
	if err := m.take(ctx); err != nil {
		return nil, err
	}
	defer m.give()
	if now := m.settled(ctx); !now.following() {
		return m.proto(), nil // what was under way has ended it
	}
	op, err := m.begin(ctx, store.KindKill, func(rec *store.VM) { rec.State = banger.StateStopping })
	if op == nil {
		return nil, err
	}
	if err == nil {
		err = m.finishKill(op)
	}
	return m.proto(), err
}

// finishKill brings a kill that was begun to its end.
func (m *machine) finishKill(op *operation) error {
	ctx, cancel := detached(m.traced(m.d.life))
	defer cancel()
	err := op.step(ctx, stepStop)
	if err == nil {
		err = m.powerOff(ctx)
	}
	if err != nil {
		return m.errorf(banger.CodeFailed, "is not killed: %w", err).WithHint("banger vm delete -f %s", m.look().rec.Name)
	}
	if err := op.step(m.d.life, stepStopped); err != nil {
		m.d.log.Warn("a step of a kill is not saved", "vm", m.id, "error", err)
	}
	return op.end(m.d.life, func(rec *store.VM) { rec.State = banger.StateStopped })
}

// tell has the guest's agent pass a signal on. That changes nothing that is
// recorded: the guest decides what follows.
func (m *machine) tell(ctx context.Context, sig syscall.Signal) (*bangerv1.VM, error) {
	now := m.look()
	if now.rec.State != banger.StateRunning || now.client == nil {
		return nil, m.notRunning()
	}
	err := m.askSupervisor(ctx, func(ctx context.Context, c vmv1connect.SupervisorClient) error {
		_, err := c.Signal(ctx, connect.NewRequest(&vmv1.SignalRequest{Signal: int32(sig)}))
		return err
	})
	if err != nil {
		return nil, m.errorf(banger.CodeFailed, "does not take signal %d: %w", sig, err).WithHint("banger vm kill %s", now.rec.Name)
	}
	return m.proto(), nil
}
