package daemon

import (
	"fmt"
	"net/netip"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/store"
)

// parts are the files and choices that a spec names beside the record.
type parts struct {
	base, vmlinux, initrd, accel string
	// template is the directory of the one that the disks are copies of; empty:
	// none. templateError is why one that is there is not used.
	template, templateError string
}

// spec is what the supervisor of rec runs.
func (d *Daemon) spec(rec store.VM, p parts) (*vmv1.Spec, error) {
	boot, err := d.boot(rec)
	if err != nil {
		return nil, err
	}
	bin, err := d.qemuBin()
	if err != nil {
		return nil, err
	}
	cfg, err := d.opts.Config()
	if err != nil {
		return nil, err
	}
	rules, err := policy.Unmarshal(rec.Policy)
	if err != nil {
		return nil, err
	}
	home := d.opts.Home
	dir := home.Instance(rec.ID)
	return &vmv1.Spec{
		Id: rec.ID, Name: rec.Name, Vcpu: int32(rec.VCPU), MemoryMib: rec.MemoryMiB,
		BaseDisk: p.base, OverlayDisk: dir.Overlay(), WorkDisk: dir.Work(),
		Kernel: p.vmlinux, Initrd: p.initrd, Driver: "qemu", Accel: p.accel, VmmBin: bin,
		Nat: rec.NAT, DnsUpstream: cfg.Network.DNSUpstream, AllowPrivate: cfg.Network.AllowPrivate,
		RequireConfinement: cfg.RequireConfinement, Boot: boot, Build: banger.BuildStamp().String(),
		Template: p.template, TemplateError: p.templateError,
		Address: rec.Address, Publish: publishSpec(rec.Publish),
		Policy: specPolicy(rules), PolicyRevision: rec.PolicyRevision,
		ExpiresUnixMs: unixMs(rec.Expires),
		Readable:      []string{home.Images(), home.Kernels(), home.Initramfs()},
	}, nil
}

// boot is who the guest is; the supervisor adds time and entropy.
func (d *Daemon) boot(rec store.VM) ([]byte, error) {
	key, err := d.userKey()
	if err != nil {
		return nil, err
	}
	network, err := guestNetwork()
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&agentv1.Boot{
		Id: rec.ID, Hostname: rec.Name, MachineId: rec.MachineID, SshHostKey: rec.HostKey,
		SshAuthorizedKeys: []string{key}, Network: network,
	})
}

// guestNetwork is the network that every guest has.
func guestNetwork() (*agentv1.Network, error) {
	guest, err := netip.ParseAddr(banger.GuestAddress)
	if err != nil {
		return nil, err
	}
	return &agentv1.Network{
		Address: netip.PrefixFrom(guest, banger.GuestPrefix).String(),
		Gateway: banger.GuestGateway, Nameservers: []string{banger.GuestGateway}, Mtu: banger.GuestMTU,
	}, nil
}

// writeSpec puts spec into dir, in one step. With lazy it does not wait for the
// disk.
func writeSpec(dir layout.Instance, spec *vmv1.Spec, lazy bool) error {
	data, err := protojson.MarshalOptions{Multiline: true}.Marshal(spec)
	if err != nil {
		return err
	}
	write := atomicfile.Write
	if lazy {
		write = atomicfile.WriteVolatile
	}
	return write(dir.Spec(), append(data, '\n'), 0o600)
}

// readSpec reads the spec of an instance. Unknown fields are passed over: an
// older daemon reads what a newer one wrote.
func readSpec(dir layout.Instance) (*vmv1.Spec, error) {
	data, err := readBounded(dir.Spec(), maxRecord)
	if err != nil {
		return nil, err
	}
	spec := new(vmv1.Spec)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("%s: %w", dir.Spec(), err)
	}
	return spec, nil
}
