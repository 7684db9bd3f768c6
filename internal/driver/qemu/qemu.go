// Package qemu runs VMs on QEMU: with KVM, or with QEMU's own emulation.
//
// The machine is a q35 with virtio devices and nothing else. QEMU serves all
// its sockets (monitor, guest link, network, console) on listeners that were
// bound for it in the instance directory, so that they can be joined again
// after the supervisor that started it has died.
//
// A connection to a guest port that ends while the guest writes costs the guest
// one of the port's descriptors: QEMU (7.2) drops the one it was at and never
// returns it. So package guestlink keeps its connections over all the sessions of
// one supervisor, and only what ends a supervisor (a crash, an upgrade) counts, or
// a guest that leaves a reset unanswered. A VM outlives some hundred of those under
// load, not any number; then its agent is not reached any more, and it is stopped
// by powering it off.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/unixsock"
)

// Name of this driver in handles and in Info.
const Name = "qemu"

const binName = "qemu-system-x86_64"

// installHint is how to get QEMU.
const installHint = "apt-get install qemu-system-x86"

// monitorTime bounds the wait for a new QEMU's monitor. It takes 30 ms on an
// idle host; the rest is for hosts that are not.
const monitorTime = 60 * time.Second

// Options of New.
type Options struct {
	Log *slog.Logger
	// Self is the banger-vm that confines QEMU; empty: the running program.
	Self string
}

type qemu struct{ Options }

// New returns the driver.
func New(o Options) driver.Driver { return &qemu{o} }

// Name implements driver.Driver.
func (q *qemu) Name() string { return Name }

// private is what a handle carries beside the process.
type private struct {
	Accel       string   `json:"accel"`
	Confinement []string `json:"confinement"`
	// Freezable says that the guest's memory is the file of Machine.Freezable.
	Freezable bool `json:"freezable,omitempty"`
	// Program is, with Freezable, QEMU as it was when this one was started.
	Program program `json:"program,omitzero"`
}

// Start implements driver.Driver.
func (q *qemu) Start(ctx context.Context, m driver.Machine, save func(driver.Handle) error) (driver.Instance, error) {
	return q.start(ctx, m, launch{save: save})
}

// start launches QEMU with its sandbox, or without if it has none.
func (q *qemu) start(ctx context.Context, m driver.Machine, l launch) (driver.Instance, error) {
	var err error
	if l.bin, err = FindBinary(m.Bin); err != nil {
		return nil, err
	}
	if err := check(m, l.frozen == nil); err != nil {
		return nil, err
	}
	if m.Freezable && l.frozen == nil {
		if l.program, err = programAt(l.bin); err != nil {
			return nil, err
		}
	}
	l.seccomp = true
	inst, err := q.launch(ctx, m, l)
	if errors.Is(err, errNoSandbox) && !m.RequireConfinement {
		q.Log.Warn("this QEMU was built without its seccomp sandbox", "qemu", l.bin)
		l.seccomp = false
		inst, err = q.launch(ctx, m, l)
	}
	if err != nil {
		return nil, err
	}
	return inst, nil
}

// FindBinary returns the absolute path of QEMU: name, or what PATH holds.
func FindBinary(name string) (string, error) {
	if name == "" {
		name = binName
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		cause := err
		var execErr *exec.Error
		if errors.As(err, &execErr) {
			cause = execErr.Err
		}
		return "", banger.Errorf(banger.CodeUnavailable, "QEMU (%s): %w", name, cause).WithHint(installHint)
	}
	return path, nil
}

// check finds what QEMU would say badly. boots says whether the kernel is used.
func check(m driver.Machine, boots bool) error {
	if m.Accel != "kvm" && m.Accel != "tcg" {
		return banger.Errorf(banger.CodeUsage, "accelerator %q is not known to QEMU here", m.Accel).WithHint("kvm or tcg")
	}
	if m.VCPU < 1 || m.MemoryMiB < 1 {
		return banger.Errorf(banger.CodeUsage, "a VM needs at least one vcpu and some memory, not %d and %d MiB", m.VCPU, m.MemoryMiB)
	}
	var files []string
	if boots {
		files = append(files, m.Kernel)
	}
	if boots && m.Initrd != "" {
		files = append(files, m.Initrd)
	}
	for _, d := range m.Disks {
		if strings.ContainsFunc(d.Serial, func(r rune) bool { return r < '0' || r > 'z' }) || d.Serial == "" || len(d.Serial) > 20 {
			return banger.Errorf(banger.CodeUsage, "disk serial %q", d.Serial)
		}
		files = append(files, d.Path)
	}
	for _, path := range files {
		if _, err := os.Stat(path); err != nil {
			var pathErr *fs.PathError
			if errors.As(err, &pathErr) {
				err = pathErr.Err
			}
			return banger.Errorf(banger.CodeFailed, "VM file %s: %w", path, err)
		}
	}
	return nil
}

// launch is one try to start QEMU.
type launch struct {
	bin     string
	program program // bin, where the guest can be frozen
	seccomp bool
	save    func(driver.Handle) error
	// frozen is the guest to restore; nil: one boots.
	frozen *frozen
}

func (q *qemu) launch(ctx context.Context, m driver.Machine, l launch) (_ *instance, err error) {
	dir := layout.Instance(m.Dir)
	started, err := q.spawn(ctx, m, l)
	if err != nil {
		return nil, err
	}
	defer started.Drop()
	handle, err := vmmproc.NewHandle(Name, started.PID)
	if err != nil {
		return nil, errors.Join(err, started.Abandon())
	}
	proc, err := vmmproc.Open(handle)
	if err != nil {
		return nil, errors.Join(err, started.Abandon())
	}
	p := private{
		Accel: m.Accel, Confinement: layers(m, started.Layers, l.seccomp),
		Freezable: m.Freezable && l.frozen == nil, Program: l.program,
	}
	var inst *instance
	defer func() {
		if err != nil {
			err = giveUp(err, proc, p, inst)
		}
	}()
	if err := enough(m, p.Confinement); err != nil {
		return nil, err
	}
	if handle.Private, err = json.Marshal(p); err != nil {
		return nil, err
	}
	if err := l.save(handle); err != nil {
		return nil, err
	}
	if err := started.Open(); err != nil {
		return nil, startError(dir, err)
	}
	if inst, err = q.attach(ctx, m, proc, p); err != nil {
		return nil, startError(dir, err)
	}
	if l.frozen != nil {
		if err := inst.load(ctx, l.frozen); err != nil {
			return nil, startError(dir, err)
		}
	}
	return inst, nil
}

// enough is an error if m wants more around its VMM than these layers.
func enough(m driver.Machine, layers []string) error {
	missing := confine.Missing(layers)
	if !m.RequireConfinement || len(missing) == 0 {
		return nil
	}
	return banger.Errorf(banger.CodeUnavailable, "full confinement is required, and this host gives no %s",
		strings.Join(missing, ", no ")).WithHint("banger doctor, or require_confinement = false in the config")
}

// giveUp ends a QEMU that did not start for the reason err, and returns the reason
// with what it knows better. inst may be nil.
func giveUp(err error, proc *vmmproc.Process, p private, inst *instance) error {
	left := vmmproc.Destroy(proc)
	if inst != nil {
		left = errors.Join(left, inst.Release())
	}
	if p.Freezable && proc.Signal() == unix.SIGBUS {
		err = banger.Errorf(banger.CodeUnavailable, "start QEMU: %s", fullForMemory).WithHint("df -h, and free some space")
	}
	return errors.Join(err, left)
}

// layers lists what contains the VMM, strongest first.
func layers(m driver.Machine, have []string, seccomp bool) []string {
	if seccomp {
		have = slices.Insert(slices.Clone(have), 0, confine.Seccomp)
	}
	if m.Accel == "kvm" {
		have = slices.Insert(slices.Clone(have), 0, "kvm")
	}
	return have
}

// spawn starts QEMU in its confinement, held at its gate.
func (q *qemu) spawn(ctx context.Context, m driver.Machine, l launch) (*confine.Started, error) {
	mark := trace.Begin(ctx, "confine: fork and exec")
	defer mark.End()
	dir := layout.Instance(m.Dir)
	sockets, err := vmmproc.Listen([]string{
		sockQMP: dir.QMP(), sockCtl: dir.GuestCtl(), sockData: dir.GuestData(),
		sockNet: dir.GuestNet(), sockConsole: dir.GuestConsole(),
	})
	if err != nil {
		return nil, err
	}
	defer vmmproc.CloseAll(sockets)
	log, err := os.OpenFile(dir.VMMLog(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	o := options{fd: confine.FirstFile, seccomp: l.seccomp}
	program := confine.Program{
		Self: q.Self, Path: l.bin, Dir: m.Dir, Files: sockets, Output: log, Policy: policy(m, l.bin),
	}
	switch {
	case l.frozen != nil:
		o.frozen = l.frozen.memory.Name()
		program.Substitute = &confine.Substitute{Path: o.frozen, File: l.frozen.memory}
	case m.Freezable:
		if err := makeMemory(dir.Memory(), m.MemoryMiB<<20); err != nil {
			return nil, err
		}
	}
	if program.Args, err = arguments(m, o); err != nil {
		return nil, err
	}
	return confine.Start(program)
}

// Adopt implements driver.Driver.
func (q *qemu) Adopt(ctx context.Context, m driver.Machine, h driver.Handle) (driver.Instance, error) {
	var p private
	if h.Driver != Name {
		return nil, fmt.Errorf("adopt: the VMM is of driver %q", h.Driver)
	}
	if err := json.Unmarshal(h.Private, &p); err != nil {
		return nil, fmt.Errorf("adopt: handle: %w", err)
	}
	proc, err := vmmproc.Open(h)
	if err != nil {
		return nil, err
	}
	inst, err := q.attach(ctx, m, proc, p)
	if err == nil {
		if err = inst.whole(ctx); err == nil {
			return inst, nil
		}
		// Before its guest was loaded: nobody will load it any more.
		if errors.Is(err, driver.ErrGone) {
			err = errors.Join(err, inst.Kill(ctx))
		}
		return nil, errors.Join(err, inst.Release())
	}
	select {
	case <-proc.Done():
		err = driver.ErrGone
	default:
	}
	return nil, errors.Join(err, proc.Release())
}

// attach connects to the monitor of a QEMU that is starting or running.
func (q *qemu) attach(ctx context.Context, m driver.Machine, proc *vmmproc.Process, p private) (*instance, error) {
	mark := trace.From(ctx).BeginOf(Name, proc.PID(), "until its monitor answers")
	defer mark.End()
	ctx, cancel := context.WithTimeoutCause(ctx, monitorTime,
		banger.Errorf(banger.CodeTimeout, "QEMU's monitor does not answer within %s", monitorTime))
	defer cancel()
	// A QEMU that ends while it starts has a listener but no reader.
	ctx, give := context.WithCancelCause(ctx)
	defer give(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-proc.Done():
			give(errEnded)
		case <-ctx.Done():
		}
	}()
	defer func() { give(nil); <-watched }()
	conn, err := unixsock.Dial(ctx, layout.Instance(m.Dir).QMP())
	if err != nil {
		return nil, cause(ctx, err)
	}
	return newInstance(ctx, m, q.Log, parts{proc: proc, private: p, monitor: net.Conn(conn)})
}

// cause prefers the reason for which ctx ended.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
