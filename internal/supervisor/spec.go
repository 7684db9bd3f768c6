package supervisor

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/layout"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// maxSpec bounds spec.json and vmm.json, in bytes.
const maxSpec = 1 << 20

// loadSpec reads what bangerd wrote. An unknown field is an error: a supervisor
// must not leave out what a newer daemon asks for.
func loadSpec(dir layout.Instance) (*vmv1.Spec, error) {
	data, err := readBounded(dir.Spec())
	if err != nil {
		return nil, err
	}
	spec := new(vmv1.Spec)
	if err := protojson.Unmarshal(data, spec); err != nil {
		return nil, banger.Errorf(banger.CodeFailed, "%s: %w", dir.Spec(), err)
	}
	return spec, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSpec {
		return nil, banger.Errorf(banger.CodeFailed, "%s is too large", path)
	}
	return os.ReadFile(path)
}

// machine is what the driver gets to run.
func machine(spec *vmv1.Spec, dir layout.Instance) driver.Machine {
	return driver.Machine{
		ID:        spec.Id,
		VCPU:      int(spec.Vcpu),
		MemoryMiB: spec.MemoryMib,
		Kernel:    spec.Kernel,
		Initrd:    spec.Initrd,
		Disks: []driver.Disk{
			{Serial: "base", Path: spec.BaseDisk, ReadOnly: true},
			{Serial: "overlay", Path: spec.OverlayDisk},
			{Serial: "work", Path: spec.WorkDisk},
		},
		Accel:              spec.Accel,
		Bin:                spec.VmmBin,
		Dir:                dir.Dir(),
		Readable:           spec.Readable,
		RequireConfinement: spec.RequireConfinement,
	}
}

// bootPayload is what the guest is told at its first reset: who it is, from the
// spec, and the time and entropy of this moment.
func bootPayload(spec *vmv1.Spec) ([]byte, error) {
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(spec.Boot, boot); err != nil {
		return nil, err
	}
	boot.Entropy = make([]byte, 64)
	rand.Read(boot.Entropy)
	boot.TimeUnixNs = time.Now().UnixNano()
	return proto.Marshal(boot)
}

// saveHandle keeps the VMM's handle where a successor looks for it. No VMM lives
// through what takes more than processes.
func saveHandle(dir layout.Instance, h driver.Handle) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return atomicfile.WriteVolatile(dir.VMM(), data, 0o600)
}

// loadHandle reads it back; driver.ErrGone if there is none, or none that names a
// process.
func loadHandle(dir layout.Instance) (driver.Handle, error) {
	var h driver.Handle
	data, err := readBounded(dir.VMM())
	if errors.Is(err, os.ErrNotExist) {
		return h, driver.ErrGone
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(data, &h); err != nil {
		return h, fmt.Errorf("%w: %s: %v", driver.ErrGone, dir.VMM(), err)
	}
	return h, nil
}

// saveSettled keeps with a template what its guest said of its init system.
func saveSettled(dir layout.Instance, system *agentv1.Event) error {
	data, err := protojson.Marshal(&agentv1.Event{
		Ready: string(banger.GradeSystem), FailedUnits: boundUnits(system.FailedUnits),
	})
	if err != nil {
		return err
	}
	return atomicfile.Write(dir.Settled(), data, 0o600)
}

// loadSettled reads it; nil if it cannot: a copy is asked then.
func loadSettled(dir layout.Instance) *agentv1.Event {
	data, err := readBounded(dir.Settled())
	if err != nil {
		return nil
	}
	system := new(agentv1.Event)
	if protojson.Unmarshal(data, system) != nil || system.Ready != string(banger.GradeSystem) {
		return nil
	}
	return system
}

// exitRecord is exit.json: how the last run ended.
type exitRecord struct {
	Reason string    `json:"reason"`
	Failed bool      `json:"failed"`
	Clean  bool      `json:"clean"`
	Time   time.Time `json:"time"`
}

func saveExit(dir layout.Instance, e exitRecord) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return atomicfile.Write(dir.Exit(), data, 0o600)
}

// earlierEnd is how a run ended whose VMM was gone before a successor came: as
// its supervisor wrote it, if it still could.
func earlierEnd(dir layout.Instance) exitRecord {
	var e exitRecord
	data, err := readBounded(dir.Exit())
	if err == nil && json.Unmarshal(data, &e) == nil {
		return e
	}
	return exitRecord{Failed: true, Reason: "its VMM and its supervisor both ended without a word"}
}
