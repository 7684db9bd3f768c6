package supervisor

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/process"
)

// usageTime bounds the wait for the guest's part of the statistics.
const usageTime = 2 * time.Second

// stats says what the VM uses.
func (s *supervisor) stats(ctx context.Context) (*vmv1.StatsResponse, error) {
	out := new(vmv1.StatsResponse)
	s.guestStats(ctx, out)
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return nil, os.NewSyscallError("clock_gettime", err)
	}
	out.TakenNs = now.Nano()
	vmm, err := process.UseOf(s.vm.Info().PID)
	if err != nil {
		return nil, err
	}
	own, err := process.UseOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	out.VmmCpuMs, out.VmmMemoryBytes = vmm.CPU.Milliseconds(), vmm.Memory
	out.SupervisorCpuMs, out.SupervisorMemoryBytes = own.CPU.Milliseconds(), own.Memory
	for _, path := range []string{s.spec.OverlayDisk, s.spec.WorkDisk} {
		bytes, err := disk.Allocated(path)
		if err != nil {
			return nil, err
		}
		out.DiskBytes += bytes
	}
	counted := s.network.Counters()
	out.NetworkInBytes, out.NetworkOutBytes, out.Flows = counted.BytesTo, counted.BytesFrom, int64(counted.Open)
	return out, nil
}

// guestStats asks the guest for its part. One that lies is believed within what can
// be.
func (s *supervisor) guestStats(ctx context.Context, out *vmv1.StatsResponse) {
	ctx, cancel := context.WithTimeout(ctx, usageTime)
	defer cancel()
	var used *agentv1.UsageResponse
	err := s.call(ctx, func(client agentv1.AgentClient) (err error) {
		used, err = client.Usage(ctx, &agentv1.UsageRequest{})
		return err
	})
	if err != nil {
		out.GuestError = boundText(err.Error())
		return
	}
	total := max(used.MemoryTotalBytes, 0)
	work, overlay := max(used.WorkTotalBytes, 0), max(used.OverlayTotalBytes, 0)
	out.Guest = &vmv1.GuestUsage{
		CpuMs: max(used.CpuMs, 0), Processes: max(used.Processes, 0),
		MemoryTotalBytes: total, MemoryAvailableBytes: within(used.MemoryAvailableBytes, total),
		WorkTotalBytes: work, WorkUsedBytes: within(used.WorkUsedBytes, work),
		OverlayTotalBytes: overlay, OverlayUsedBytes: within(used.OverlayUsedBytes, overlay),
	}
}

func within(n, most int64) int64 { return min(max(n, 0), most) }
