package config

import (
	"bufio"
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
)

// The built-in defaults. Disks are sparse: their size is a limit, not a cost.
const (
	BuiltinImage              = "debian-bookworm"
	BuiltinDiskBytes    int64 = 8 * banger.GiB
	BuiltinOverlayBytes int64 = 8 * banger.GiB
	// fallbackMemoryMiB is for a host whose memory cannot be read.
	fallbackMemoryMiB = 1024
)

// Host is what the defaults are derived from.
type Host struct {
	CPUs        int
	MemoryBytes int64
}

// HostFacts reads the host. MemoryBytes is 0 if it cannot be read.
func HostFacts() Host {
	return Host{CPUs: runtime.NumCPU(), MemoryBytes: memTotal()}
}

func memTotal() int64 {
	n, err := memory("MemTotal:")
	if err != nil {
		return 0
	}
	return n
}

// MemoryAvailable is the memory that can be had without swapping, in bytes.
func MemoryAvailable() (int64, error) { return memory("MemAvailable:") }

// memory reads a line of /proc/meminfo, in bytes.
func memory(what string) (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == what {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib * banger.KiB, err
		}
	}
	return 0, errors.Join(errors.New("no "+what+" in /proc/meminfo"), lines.Err())
}

// leastForSpares is the memory below which a host keeps no spares unasked.
const leastForSpares = 4 * banger.GiB

// SpareBytes is what spares may take of the host's memory: as the config says,
// else an eighth of it, or nothing on a small host. cfg has passed Load.
func SpareBytes(cfg Config, host Host) Value[int64] {
	if n, err := cfg.Spares.bytes(); err == nil && n >= 0 {
		return Value[int64]{n, banger.OriginConfig}
	}
	if host.MemoryBytes < leastForSpares {
		return Value[int64]{0, banger.OriginAuto}
	}
	return Value[int64]{host.MemoryBytes / 8, banger.OriginAuto}
}

// Value is a default and where it came from.
type Value[T any] struct {
	Value  T
	Origin banger.Origin
}

// Defaults is what a VM gets where nothing else is asked for.
type Defaults struct {
	Image        Value[string]
	VCPU         Value[int]
	MemoryMiB    Value[int64]
	DiskBytes    Value[int64]
	OverlayBytes Value[int64]
	NAT          Value[bool]
	// Driver and Accel may be "auto".
	Driver Value[string]
	Accel  Value[string]
}

// Resolve derives the defaults: the config first, then the host (vcpu = cpus/4,
// 1 to 4; memory = RAM/8, up to 8 GiB and at least min(2 GiB, RAM/4)), then
// what is built in. cfg has passed Load, so its values are valid.
func Resolve(cfg Config, host Host) Defaults {
	memory, _ := cfg.VMDefaults.memoryMiB()
	d := Defaults{
		Image:        fromConfig(cfg.DefaultImageName, BuiltinImage),
		VCPU:         Value[int]{int(cfg.VMDefaults.VCPU), banger.OriginConfig},
		MemoryMiB:    Value[int64]{memory, banger.OriginConfig},
		DiskBytes:    sizeFromConfig(cfg.VMDefaults.DiskSize, BuiltinDiskBytes),
		OverlayBytes: sizeFromConfig(cfg.VMDefaults.SystemOverlaySize, BuiltinOverlayBytes),
		NAT:          Value[bool]{true, banger.OriginBuiltin},
		Driver:       fromConfig(cfg.Driver, "auto"),
		Accel:        fromConfig(cfg.Accel, "auto"),
	}
	if d.VCPU.Value == 0 {
		d.VCPU = Value[int]{min(max(host.CPUs/4, 1), 4), banger.OriginAuto}
	}
	if d.MemoryMiB.Value == 0 {
		d.MemoryMiB = autoMemory(host)
	}
	if nat := cfg.VMDefaults.NAT; nat != nil {
		d.NAT = Value[bool]{*nat, banger.OriginConfig}
	}
	return d
}

func autoMemory(host Host) Value[int64] {
	if host.MemoryBytes <= 0 {
		return Value[int64]{fallbackMemoryMiB, banger.OriginBuiltin}
	}
	least := min(2*banger.GiB, host.MemoryBytes/4)
	bytes := max(min(host.MemoryBytes/8, 8*banger.GiB), least)
	return Value[int64]{bytes / banger.MiB, banger.OriginAuto}
}

func fromConfig(value, builtin string) Value[string] {
	if value != "" {
		return Value[string]{value, banger.OriginConfig}
	}
	return Value[string]{builtin, banger.OriginBuiltin}
}

func sizeFromConfig(text string, builtin int64) Value[int64] {
	if n, err := banger.ParseSize(text); text != "" && err == nil {
		return Value[int64]{n, banger.OriginConfig}
	}
	return Value[int64]{builtin, banger.OriginBuiltin}
}
