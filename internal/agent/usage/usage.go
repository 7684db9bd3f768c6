// Package usage reads what a guest uses, from its kernel's own files.
package usage

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"golang.org/x/sys/unix"
)

// msPerTick is the unit of /proc/stat, in ms: Linux tells user space 100 a second on
// every architecture (USER_HZ).
const msPerTick = 10

// Read returns what the guest uses now. What cannot be read is 0.
func Read() (*agentv1.UsageResponse, error) {
	u := new(agentv1.UsageResponse)
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, err
	}
	u.CpuMs = busy(text)
	if text, err = os.ReadFile("/proc/meminfo"); err != nil {
		return nil, err
	}
	u.MemoryTotalBytes, u.MemoryAvailableBytes = memory(text)
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("sysinfo: %w", err)
	}
	u.Processes = int64(info.Procs)
	u.WorkUsedBytes, u.WorkTotalBytes = fileSystem("/root")
	u.OverlayUsedBytes, u.OverlayTotalBytes = fileSystem("/")
	return u, nil
}

// fileSystem is what the file system at path holds, and what it can.
func fileSystem(path string) (used, total int64) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0
	}
	return int64(fs.Blocks-fs.Bfree) * fs.Bsize, int64(fs.Blocks) * fs.Bsize
}

// The fields of the first line of /proc/stat that are no work: idle and iowait; the
// time of guests (from the ninth on) is counted in the first two already.
const (
	idleField   = 3
	iowaitField = 4
	workFields  = 8
)

// busy is the time of all processors together, in ms.
func busy(stat []byte) int64 {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 || string(fields[0]) != "cpu" {
		return 0
	}
	ticks := int64(0)
	for i, field := range fields[1:min(len(fields), 1+workFields)] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err == nil && i != idleField && i != iowaitField {
			ticks += n
		}
	}
	return ticks * msPerTick
}

// memory reads /proc/meminfo.
func memory(meminfo []byte) (total, available int64) {
	lines := bufio.NewScanner(bytes.NewReader(meminfo))
	for lines.Scan() {
		key, rest, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		kib, err := strconv.ParseInt(string(fields[0]), 10, 54)
		if err != nil {
			continue
		}
		switch string(key) {
		case "MemTotal":
			total = kib << 10
		case "MemAvailable":
			available = kib << 10
		}
	}
	return total, available
}
