package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/confine"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/logfile"
	"github.com/banger-dev/banger/internal/probe"
	"github.com/banger-dev/banger/internal/trace"
)

// memoryLimit keeps the supervisor small: beyond it, in bytes, the collector
// works harder.
const memoryLimit = 20 << 20

// maxTrace is how many spans a supervisor keeps, always: a trace may begin when it
// has run for long, and cost it next to nothing.
const maxTrace = 256

// maxLog bounds the supervisor's log, in bytes; the one before is kept.
const maxLog = 1 << 20

// Main runs banger-vm with the given arguments and returns its exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	var err error
	switch args[0] {
	case "run":
		err = mainRun(args[1:])
	case "template":
		err = mainTemplate(args[1:], log)
	case "fingerprint":
		err = mainFingerprint(args[1:], stdout, log)
	case "probe":
		err = mainProbe(stdout, log, args[1:])
	case confine.Command:
		err = confine.Main(args[1:])
	case "version":
		fmt.Fprintln(stdout, banger.BuildStamp())
	default:
		err = banger.Errorf(banger.CodeUsage, "banger-vm is run by bangerd; it knows: run [--adopt | --spare] DIR, template DIR, fingerprint, probe, version")
	}
	if err != nil {
		fmt.Fprintln(stderr, "banger-vm:", err)
		return banger.CodeOf(err).ExitCode()
	}
	return 0
}

// mainRun supervises the VM of an instance directory until it has ended. Its log
// is bounded in size and rate: a guest causes most of the lines.
func mainRun(args []string) error {
	flags := flag.NewFlagSet("run", flag.ContinueOnError)
	adopt := flags.Bool("adopt", false, "take over the VMM that a crashed supervisor left")
	spare := flags.Bool("spare", false, "make a spare, and end with stdin unless it is claimed")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 || *adopt && *spare {
		return banger.Errorf(banger.CodeUsage, "usage: banger-vm run [--adopt | --spare] DIR")
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryLimit)
	dir := layout.Instance(flags.Arg(0))
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Release()
	file, err := logfile.Open(dir.SupervisorLog(), maxLog)
	if err != nil {
		return err
	}
	defer file.Close()
	log := slog.New(slog.NewTextHandler(logfile.NewPaced(file), nil))
	o := Options{Adopt: *adopt, Drivers: drivers(log), Log: log}
	if *spare {
		if o.Owner, err = ownerOf(syscall.Stdin); err != nil {
			return err
		}
	}
	return Run(dir, o)
}

// ownerOf is the pipe on fd, in a form whose readers can be ended.
func ownerOf(fd int) (*os.File, error) {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("stdin", err)
	}
	return os.NewFile(uintptr(fd), "owner"), nil
}

// drivers are those of this host, by the names that a spec uses.
func drivers(log *slog.Logger) map[string]driver.Driver {
	return map[string]driver.Driver{qemu.Name: qemu.New(qemu.Options{Log: log})}
}

// lockDir takes the instance directory for this process.
func lockDir(dir layout.Instance) (*lockfile.Lock, error) {
	lock, err := lockfile.Try(dir.SupervisorLock())
	if err == nil && lock == nil {
		err = banger.Errorf(banger.CodeWrongState, "%s: another supervisor runs this VM", dir.Dir())
	}
	return lock, err
}

// mainTemplate makes the template of a directory. SIGTERM gives it up.
func mainTemplate(args []string, log *slog.Logger) error {
	if len(args) != 1 {
		return banger.Errorf(banger.CodeUsage, "usage: banger-vm template DIR")
	}
	dir := layout.Instance(args[0])
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Release()
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	return MakeTemplate(ctx, dir, Options{Drivers: drivers(log), Log: log})
}

// mainFingerprint prints what a template depends on besides what it was made of.
func mainFingerprint(args []string, stdout io.Writer, log *slog.Logger) error {
	flags := flag.NewFlagSet("fingerprint", flag.ContinueOnError)
	name := flags.String("driver", qemu.Name, "driver")
	accel := flags.String("accel", "tcg", "tcg or kvm")
	bin := flags.String("qemu", "", "QEMU to use; empty: from PATH")
	if err := flags.Parse(args); err != nil {
		return banger.Errorf(banger.CodeUsage, "fingerprint: %w", err)
	}
	restorer, ok := drivers(log)[*name].(driver.Restorer)
	if !ok {
		return banger.Errorf(banger.CodeUnavailable, "driver %q has no templates", *name)
	}
	text, err := restorer.Fingerprint(driver.Machine{Accel: *accel, Bin: *bin})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, text)
	return err
}

// Options are what Run needs.
type Options struct {
	// Adopt takes over a VMM instead of starting one.
	Adopt bool
	// Owner, if not nil, makes a spare of the VM: until it is claimed, it ends
	// when Owner does.
	Owner *os.File
	// Drivers by name, as a spec names them.
	Drivers map[string]driver.Driver
	Log     *slog.Logger
}

// Run supervises the VM of dir, whose lock the caller holds, until it has ended.
// SIGTERM stops the VM as its Stop call does.
func Run(dir layout.Instance, o Options) (err error) {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	born := trace.ProcessStart()
	s := &supervisor{
		dir: dir, log: o.Log, trace: trace.NewRecorder("banger-vm", maxTrace), started: make(chan struct{}),
		over: make(chan struct{}), claims: make(chan *claim, 1), messages: newRation(messageRate()),
		floor: newFloor(), told: make(chan struct{}, 1),
	}
	if s.spec, err = loadSpec(dir); err != nil {
		return errors.Join(err, saveExit(dir, exitRecord{Reason: err.Error(), Failed: true, Time: time.Now().UTC()}))
	}
	s.status = newStatus(&vmv1.StatusResponse{
		Id: s.spec.Id, State: stateStarting, Pid: int32(os.Getpid()),
		StartedUnixMs: time.Now().UnixMilli(), Build: banger.BuildStamp().String(),
	})
	s.trace.Begin("process start until its spec is read").Since(born)
	if s.driver = o.Drivers[s.spec.Driver]; s.driver == nil {
		return s.finish(exitRecord{Failed: true, Reason: fmt.Sprintf("unknown driver %q", s.spec.Driver)})
	}
	return s.serve(ctx, o)
}

// serve answers on the sockets while the VM lives. They are served before it is
// started: the daemon waits for them.
func (s *supervisor) serve(ctx context.Context, o Options) error {
	life := trace.With(context.Background(), s.trace)
	stopAPI, err := s.serveAPI()
	if err != nil {
		return err
	}
	stopDoor, err := s.serveDoor(life)
	if err != nil {
		return err
	}
	if err := fault.Point("supervisor.listening"); err != nil {
		return err
	}
	stopOnSignal := context.AfterFunc(ctx, func() { s.stop(life, stopTime) })
	defer stopOnSignal()
	if o.Owner == nil {
		err = s.run(life, o.Adopt)
	} else {
		unclaimed, unwatch := owned(trace.With(ctx, s.trace), o.Owner)
		err = s.runSpare(unclaimed)
		unwatch()
	}
	close(s.over)
	stopDoor()
	stopAPI()
	return errors.Join(err, remove(s.dir.Link()), remove(s.dir.Socket()))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// mainProbe prints what can run VMs here, as JSON.
func mainProbe(stdout io.Writer, log *slog.Logger, args []string) error {
	flags := flag.NewFlagSet("probe", flag.ContinueOnError)
	flags.Bool("json", true, "print JSON (there is no other form)")
	bin := flags.String("qemu", "", "QEMU to use; empty: from PATH")
	kernel := flags.String("kernel", "", "kernel to boot under KVM")
	initrd := flags.String("initrd", "", "its initramfs")
	if err := flags.Parse(args); err != nil {
		return banger.Errorf(banger.CodeUsage, "probe: %w", err)
	}
	home, err := layout.FromEnv(os.Getenv)
	if err != nil {
		return err
	}
	result, err := probe.Run(context.Background(), probe.Options{
		Home: home, QEMUBin: *bin, Kernel: *kernel, Initrd: *initrd, Log: log,
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(stdout).Encode(result)
}
