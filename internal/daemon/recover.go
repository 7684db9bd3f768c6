package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/internal/leftover"
	"github.com/banger-dev/banger/internal/store"
)

// recover makes records for whole VMs that have none: the store was lost, the
// disks were not. Their names, shapes and identities are in their specs.
func (d *Daemon) recover(ctx context.Context) {
	entries, err := os.ReadDir(d.opts.Home.VMs())
	if err != nil {
		return
	}
	for _, entry := range entries {
		id := entry.Name()
		if d.vms[id] != nil || !leftover.Whole(d.opts.Home, id) {
			continue
		}
		rec, err := d.recoverRecord(id)
		if err != nil {
			d.log.Error("a VM without a record is left alone", "vm", id, "error", err)
			continue
		}
		m := newMachine(d, rec)
		if err := m.save(ctx, unchanged); err != nil {
			d.log.Error("a VM without a record is left alone", "vm", id, "error", err)
			continue
		}
		d.vms[id] = m
		d.log.Warn("a VM without a record is found again", "vm", id, "name", rec.Name)
	}
}

func (d *Daemon) recoverRecord(id string) (store.VM, error) {
	dir := d.opts.Home.Instance(id)
	spec, err := readSpec(dir)
	if err != nil {
		return store.VM{}, err
	}
	boot := new(agentv1.Boot)
	if err := proto.Unmarshal(spec.Boot, boot); err != nil {
		return store.VM{}, err
	}
	if spec.Id != id {
		return store.VM{}, errors.New("its spec is of another VM")
	}
	rec := store.VM{
		ID: id, Name: spec.Name, State: banger.StateStopped, Reason: "its record was lost and found again",
		Image: filepath.Base(filepath.Dir(spec.BaseDisk)), Kernel: filepath.Base(filepath.Dir(spec.Kernel)),
		VCPU: int(spec.Vcpu), MemoryMiB: spec.MemoryMib, NAT: spec.Nat,
		DiskBytes: fileSize(dir.Work()), OverlayBytes: fileSize(dir.Overlay()),
		Address: spec.Address, Publish: publishOf(spec.Publish),
		Created: modified(dir.Spec()), Expires: fromUnixMs(spec.ExpiresUnixMs), MachineID: boot.MachineId, HostKey: boot.SshHostKey,
	}
	rules, err := recordedPolicy(spec)
	if err != nil {
		return store.VM{}, err
	}
	rec.Policy, rec.PolicyRevision = rules.Marshal(), spec.PolicyRevision
	if images, err := d.opts.Assets.Images(false); err == nil {
		for _, image := range images {
			if image.Name == rec.Image {
				rec.ImageDigest = image.Id
			}
		}
	}
	if banger.CheckName("vm", rec.Name) != nil || d.named(rec.Name) != nil {
		rec.Name = d.freeName()
	}
	return rec, nil
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func modified(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Now()
	}
	return info.ModTime()
}
