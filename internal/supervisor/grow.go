package supervisor

import (
	"context"
	"errors"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/fault"
)

// growTime bounds what the agent takes to grow a file system: it has a bound of its
// own, and this one is for an agent that does not keep it.
const growTime = 6 * time.Minute

// grow makes a disk larger, and the file system on it. When it fails after the first
// half, the guest does the second at its next boot.
func (s *supervisor) grow(ctx context.Context, disk string, size int64) error {
	resizer, ok := s.vm.(driver.Resizer)
	if !ok {
		return banger.Errorf(banger.CodeUsage, "driver %s cannot grow a disk while the VM runs", s.driver.Name())
	}
	if err := s.floor.take(ctx); err != nil { // no pause meanwhile
		return err
	}
	defer s.floor.give()
	if now, _ := s.status.get(); now.State != stateRunning {
		return banger.Errorf(banger.CodeWrongState, "vm %q is %s", s.spec.Name, now.State)
	}
	ctx, cancel := context.WithTimeout(ctx, growTime)
	defer cancel()
	if err := resizer.Resize(ctx, disk, size); err != nil {
		return err
	}
	if err := fault.Point("grow.resized", s.vm.Info().PID); err != nil {
		return err
	}
	return s.unlessEnded(ctx, s.call(ctx, func(client agentv1.AgentClient) error {
		_, err := client.Grow(ctx, &agentv1.GrowRequest{Disk: disk, Bytes: size})
		return err
	}))
}

// unlessEnded is err, or, where the VM has ended, that: unavailable, because whoever
// asks again is told by nobody or by a successor.
func (s *supervisor) unlessEnded(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, endedTime)
	defer cancel()
	exit, waitErr := s.vm.Wait(ctx)
	if waitErr != nil {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "the VM ended: %s", exit.Reason)
}

// health asks the agent who it is.
func (s *supervisor) health(ctx context.Context) (*vmv1.HealthResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, rpcTime)
	defer cancel()
	var info *agentv1.InfoResponse
	var took time.Duration
	err := s.call(ctx, func(client agentv1.AgentClient) (err error) {
		begun := time.Now()
		info, err = client.Info(ctx, &agentv1.InfoRequest{})
		took = time.Since(begun)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &vmv1.HealthResponse{
		LatencyUs: took.Microseconds(), Build: boundText(info.Build), Kernel: boundText(info.Kernel),
		Init: boundText(info.Init), Ready: boundText(info.Ready), BootId: boundText(info.BootId), UptimeMs: info.UptimeMs,
	}, nil
}

// call makes a call to the agent, once there is a session, which it waits for as long
// as link.sock does.
func (s *supervisor) call(ctx context.Context, do func(agentv1.AgentClient) error) error {
	waiting, cancel := context.WithTimeout(ctx, sessionTime)
	defer cancel()
	if err := s.awaitSession(waiting); err != nil {
		if waiting.Err() != nil && ctx.Err() == nil {
			return errors.New("the guest does not answer")
		}
		return err
	}
	client, done, err := s.agent(ctx)
	if err != nil {
		return err
	}
	defer done()
	return do(client)
}

// maxText bounds a word of the guest's about itself, in bytes.
const maxText = 256

// boundText copies what is kept of a guest's word; it stays UTF-8.
func boundText(text string) string {
	return strings.ToValidUTF8(strings.Clone(text[:min(len(text), maxText)]), "")
}
