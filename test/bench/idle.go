package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// idleTime is how long one sample of an idle VM takes.
const idleTime = 10 * time.Second

// idle measures what the processes of an idle VM hold in memory and what they
// do, after the traffic of the jobs before.
func (b *bench) idle(ctx context.Context) ([]row, error) {
	daemon, err := b.daemonPID(ctx)
	if err != nil {
		return nil, err
	}
	samples, err := sample(ctx, few(b.n), b.idleCPU, resident(daemon), resident(b.vm.SupervisorPID))
	if err != nil {
		return nil, err
	}
	return []row{
		{Name: "daemon, resident", Unit: "MiB", Limit: 40, Samples: samples[1]},
		{Name: "supervisor, resident", Unit: "MiB", Limit: 25, Samples: samples[2]},
		{Name: "idle VM (QEMU and supervisor), of one CPU over 10 s", Unit: "%", Limit: 2, Samples: samples[0]},
	}, nil
}

func (b *bench) daemonPID(ctx context.Context) (int, error) {
	text, err := b.home.output(ctx, "daemon", "status", "--json")
	if err != nil {
		return 0, err
	}
	var status struct {
		PID int `json:"pid"`
	}
	return status.PID, json.Unmarshal([]byte(text), &status)
}

// idleCPU is the share of one CPU that the VM takes, in percent.
func (b *bench) idleCPU(ctx context.Context) (float64, error) {
	used := func() (sum time.Duration, err error) {
		for _, pid := range []int{b.vm.VMMPID, b.vm.SupervisorPID} {
			one, err := cpuTime(pid)
			if err != nil {
				return 0, err
			}
			sum += one
		}
		return sum, nil
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := used()
	return 100 * float64(after-before) / float64(time.Since(start)), err
}

// tick is the unit of times in /proc/PID/stat (USER_HZ, proc(5)).
const tick = 10 * time.Millisecond

// cpuTime is what a process has used: utime and stime of /proc/PID/stat.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, err
}

// resident is what a process holds in memory, in MiB.
func resident(pid int) probe {
	return func(context.Context) (float64, error) {
		text, err := valueOf(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
		if err != nil {
			return 0, err
		}
		kib, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
		return kib / 1024, err
	}
}
