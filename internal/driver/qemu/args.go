package qemu

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/layout"
)

// Names of the guest link's ports, as the guest's agent looks for them in
// /sys/class/virtio-ports.
const (
	PortCtl  = "banger.ctl"
	PortData = "banger.data"
)

// Sandbox is QEMU's own seccomp filter. It can start no program and gain no
// privilege; threads it may make.
const Sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

// The sockets that are passed to QEMU, in the order of their descriptors.
const (
	sockQMP = iota
	sockCtl
	sockData
	sockNet
	sockConsole
)

// CommandLine is the guest kernel's. Measured with Debian's 6.1 on QEMU 7.2
// under emulation, boot to /init:
//   - cryptomgr.notests=1 saves 0.2 to 0.8 s of self-tests;
//   - tsc=reliable (emulation only, where the counter is the host's) keeps the
//     kernel from falling back to a clock that wakes an idle guest;
//   - no_timer_check (emulation only): the kernel does not count timer
//     interrupts for 40 ms, which a busy host may deliver too late: it would
//     panic;
//   - norandmaps (emulation only): QEMU keeps translated code by its address, so
//     a program at another address each time is translated each time. A program
//     with a shared library starts in 4 ms instead of 17. It weakens no wall of
//     the VM's; a guest that wants it sets kernel.randomize_va_space;
//   - mitigations=off (emulation only): they are against what a processor
//     guesses of the code that it is given, which here is not the guest's: 15 %;
//   - nowatchdog psi=0 (emulation only): a guest that its host makes wait is not
//     locked up, and pressure is not counted at each switch of processes: 250
//     blocks of code that each copy of a guest would translate before it answers;
//   - random.trust_cpu=on: nothing waits for entropy;
//   - reboot=t panic=-1: a reset or a panic ends the VMM at once;
//   - quiet: each console byte is an exit.
func CommandLine(accel string) string {
	line := "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on cryptomgr.notests=1"
	if accel == "tcg" {
		line += " tsc=reliable no_timer_check norandmaps mitigations=off nowatchdog psi=0"
	}
	return line
}

// blockdev describes a disk for -blockdev, in JSON so that a path may hold
// anything.
type blockdev struct {
	NodeName string   `json:"node-name"`
	Driver   string   `json:"driver"`
	ReadOnly bool     `json:"read-only"`
	Discard  string   `json:"discard,omitempty"`
	File     diskFile `json:"file"`
}

type diskFile struct {
	Driver   string `json:"driver"`
	Filename string `json:"filename"`
	Discard  string `json:"discard,omitempty"`
}

// BaseArguments are the machine and the accelerator, "kvm" or "tcg": what the
// KVM probe boots too. The bound on tcg's buffer for translated code, in MiB,
// bounds what a VM keeps resident; 32 to 512 boot equally fast.
//
// Booting strictly keeps the firmware from looking for something to boot on the
// disks. It takes the memory for that from where QEMU puts the initramfs, which
// the kernel then copies: 40 ms.
//
// Emulated, the processor must not claim fast string moves (ERMS): the guest's
// kernel would copy with "rep movsb", which QEMU emulates byte by byte. Without
// it the kernel moves eight bytes at a time: measured with 256 MiB through a
// pipe out of a guest, 80 MiB/s against 35, and into one 80 against 51.
func BaseArguments(accel string) []string {
	cpu := "host"
	if accel != "kvm" {
		accel, cpu = "tcg,tb-size=256", "max,-erms"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "q35,usb=off,sata=off,smbus=off,vmport=off,dump-guest-core=off",
		"-boot", "strict=on",
		"-accel", accel, "-cpu", cpu,
	}
}

// memory describes the guest's memory for -object, in JSON so that the path may
// hold anything. A frozen guest knows it by its ID.
type memory struct {
	Type  string `json:"qom-type"`
	ID    string `json:"id"`
	Size  int64  `json:"size"`
	Path  string `json:"mem-path"`
	Share bool   `json:"share"`
}

// options are what the command line for a machine depends on besides it.
type options struct {
	// fd is the descriptor of the first of the passed sockets.
	fd int
	// seccomp says whether this QEMU has a sandbox.
	seccomp bool
	// frozen is the memory of the guest to wait for; empty: the guest boots.
	frozen string
}

// arguments is QEMU's command line for m. What a frozen guest finds again must
// be in the same order.
func arguments(m driver.Machine, o options) ([]string, error) {
	args := append(BaseArguments(m.Accel),
		"-name", "banger-"+m.ID, "-S",
		"-smp", strconv.Itoa(m.VCPU), "-m", strconv.FormatInt(m.MemoryMiB, 10)+"M",
	)
	ram, err := memoryArguments(m, o.frozen)
	if err != nil {
		return nil, err
	}
	args = append(args, ram...)
	args = append(args, guestArguments(m, o.frozen != "")...)
	if o.seccomp {
		args = append(args, "-sandbox", Sandbox)
	}
	for _, d := range m.Disks {
		disk, err := diskArguments(d)
		if err != nil {
			return nil, err
		}
		args = append(args, disk...)
	}
	return append(args, deviceArguments(o.fd)...), nil
}

// guestArguments are where the guest comes from. The kernel of a frozen one is
// in its memory: loading it again would cost 10 ms.
func guestArguments(m driver.Machine, frozen bool) []string {
	if frozen {
		return []string{"-incoming", "defer"}
	}
	args := []string{"-kernel", m.Kernel, "-append", CommandLine(m.Accel)}
	if m.Initrd != "" {
		args = append(args, "-initrd", m.Initrd)
	}
	return args
}

// memoryArguments have the guest's memory in a file, if it can be frozen or was.
func memoryArguments(m driver.Machine, frozen string) ([]string, error) {
	ram := memory{Type: "memory-backend-file", ID: "memory", Size: m.MemoryMiB << 20, Path: frozen}
	switch {
	case frozen != "":
	case m.Freezable:
		ram.Path, ram.Share = layout.Instance(m.Dir).Memory(), true
	default:
		return nil, nil
	}
	object, err := json.Marshal(ram)
	if err != nil {
		return nil, err
	}
	return []string{"-object", string(object), "-M", "memory-backend=" + ram.ID}, nil
}

// modern leaves out the interface that virtio devices had before version 1.0:
// firmware and guest look at one less each time they go through the bus.
const modern = "disable-legacy=on"

func diskArguments(d driver.Disk) ([]string, error) {
	// What the guest discards leaves the file, so that it stays sparse.
	b := blockdev{NodeName: nodeName(d.Serial), Driver: "raw", ReadOnly: d.ReadOnly,
		File: diskFile{Driver: "file", Filename: d.Path}}
	if !d.ReadOnly {
		b.Discard, b.File.Discard = "unmap", "unmap"
	}
	spec, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return []string{
		"-blockdev", string(spec),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s,%s", b.NodeName, d.Serial, modern),
	}, nil
}

// deviceArguments are the devices every VM has.
func deviceArguments(fd int) []string {
	socket := func(id string, n int) []string {
		return []string{"-chardev", fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd+n)}
	}
	var args []string
	args = append(args, socket("qmp", sockQMP)...)
	args = append(args, "-mon", "chardev=qmp,mode=control")
	args = append(args, socket("console", sockConsole)...)
	args = append(args, "-device", "isa-serial,chardev=console")
	args = append(args, "-device", "virtio-serial-pci,"+modern+",max_ports=3")
	args = append(args, socket("ctl", sockCtl)...)
	args = append(args, "-device", "virtserialport,nr=1,chardev=ctl,name="+PortCtl)
	args = append(args, socket("data", sockData)...)
	args = append(args, "-device", "virtserialport,nr=2,chardev=data,name="+PortData)
	return append(args,
		"-netdev", fmt.Sprintf("stream,id=net,server=on,addr.type=fd,addr.str=%d", fd+sockNet),
		// No option ROM: nothing boots from the network. No announcements: once
		// one has ended, or none was wanted, a guest that was restored and
		// resets the device crashes QEMU (seen with 7.2.22).
		"-device", fmt.Sprintf("virtio-net-pci,%s,netdev=net,mac=%s,host_mtu=%d,guest_announce=off,romfile=",
			modern, banger.GuestMAC, banger.GuestMTU),
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,"+modern+",rng=rng",
	)
}

// headroom is the address space that QEMU gets beside the guest's memory, in
// bytes: its libraries, translated code, and thread stacks and arenas, which
// are reserved generously and used little.
const headroom = 8 << 30

// policy is what a confined QEMU may touch for m. The memory of a frozen guest
// is none of it: QEMU is handed that.
func policy(m driver.Machine, bin string) confine.Policy {
	p := confine.Policy{
		WriteDirs: []string{m.Dir},
		ReadDirs:  append([]string{"/usr", "/lib", "/lib64", "/etc/qemu", "/sys/devices/system"}, m.Readable...),
		ReadFiles: []string{bin, m.Kernel, "/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime",
			"/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/max_map_count"},
		Devices:      []string{"/dev/null", "/dev/urandom", "/dev/random"},
		AddressSpace: uint64(m.MemoryMiB)<<20 + headroom,
		OOMScoreAdj:  200,
	}
	if m.Initrd != "" {
		p.ReadFiles = append(p.ReadFiles, m.Initrd)
	}
	if m.Accel == "kvm" {
		p.Devices = append(p.Devices, "/dev/kvm")
	}
	for _, d := range m.Disks {
		if d.ReadOnly {
			p.ReadFiles = append(p.ReadFiles, d.Path)
		} else {
			p.WriteFiles = append(p.WriteFiles, d.Path)
		}
	}
	// A QEMU outside /usr has its data and libraries beside it.
	if prefix, ok := strings.CutSuffix(bin, "/bin/"+binName); ok && prefix != "/usr" && prefix != "" {
		p.ReadDirs = append(p.ReadDirs, prefix+"/share", prefix+"/lib", prefix+"/libexec")
	}
	return p
}
