package trace

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/PID/stat: user space sees 100 of them in a
// second on every architecture of ours.
const tick = 10 * time.Millisecond

// ProcessStart is when this process was started, in nanoseconds of
// CLOCK_MONOTONIC. It is called early: the kernel tells the start to 10 ms only,
// and within those the processor time that was used so far tells it better.
func ProcessStart() int64 {
	now := Now()
	var used, boot unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &used) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return now
	}
	guess := now - used.Nano()
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return guess
	}
	ticks, err := startTicks(string(data))
	if err != nil {
		return guess
	}
	// The kernel counts from boot, with the time that the host was asleep.
	earliest := ticks*int64(tick) - (boot.Nano() - now)
	return min(max(guess, earliest), earliest+int64(tick), now)
}

// startTicks reads the start of a process from its stat. The name, in brackets,
// may hold anything.
func startTicks(stat string) (int64, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const start = 19
	if len(fields) <= start {
		return 0, fmt.Errorf("%d fields after the name", len(fields))
	}
	return strconv.ParseInt(fields[start], 10, 64)
}
