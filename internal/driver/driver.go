// Package driver is the contract between a supervisor and what runs its VM.
//
// The implementations are qemu and fake; all pass the suite in drivertest.
package driver

import (
	"context"
	"encoding/json"
	"io"
	"net"
)

// Machine is the VM to run. Paths are absolute; the driver opens nothing else.
type Machine struct {
	ID        string
	VCPU      int
	MemoryMiB int64
	// Kernel is an uncompressed ELF vmlinux.
	Kernel string
	Initrd string
	// Disks in order: base, overlay, work. The guest finds them by serial.
	Disks []Disk
	// Accel is "kvm" or "tcg".
	Accel string
	// Bin is the VMM's program; empty: looked up in PATH.
	Bin string
	// Dir is the instance directory: the only place the VMM may write.
	Dir string
	// Readable are further directories that a confined VMM may read.
	Readable []string
	// RequireConfinement makes Start fail where less than the driver's full
	// confinement can be had.
	RequireConfinement bool
	// Freezable has the guest's memory in a file from which it can be frozen
	// (Freezer), in Dir. It costs what the file system costs.
	Freezable bool
}

// Disk is one block device.
type Disk struct {
	// Serial is what the guest knows the disk by: "base", "overlay", "work".
	Serial   string
	Path     string
	ReadOnly bool
}

// Driver starts VMMs and takes over those that a crashed supervisor left.
//
// A VMM lives in a session of its own and outlives the process that started
// it: nothing it needs (sockets, console, files) ends with that process.
type Driver interface {
	// Name is "qemu", "fake", …
	Name() string
	// Start launches the VMM with its guest not yet running. save is called
	// with the VMM's handle before the guest can run its first instruction, so
	// that no VMM exists that a successor could not find; an error from it ends
	// the VMM. When Start returns an error, no VMM is left.
	Start(ctx context.Context, m Machine, save func(Handle) error) (Instance, error)
	// Adopt takes over the VMM of a handle. The error is ErrGone if no such
	// VMM lives; the caller has the instance lock, so nobody else adopts.
	Adopt(ctx context.Context, m Machine, h Handle) (Instance, error)
}

// Handle is what the driver needs to find its VMM again, kept as JSON in the
// instance directory. PID and StartTime (clock ticks since host boot, from
// /proc/PID/stat) together never name another process of the same host boot.
type Handle struct {
	Driver    string          `json:"driver"`
	PID       int             `json:"pid"`
	StartTime uint64          `json:"start_time"`
	BootID    string          `json:"boot_id"`
	Private   json.RawMessage `json:"private,omitempty"`
}

// Instance is a living VMM. All methods may be called from any goroutine.
type Instance interface {
	// Run lets the guest go on. Calling it on a running guest is no error.
	Run(ctx context.Context) error
	// Link is the guest link. The same value at every call.
	Link() Link
	// Network returns the connection that carries the guest's Ethernet frames,
	// each after its length (4 bytes, big-endian). It connects anew at each
	// call; the VMM takes one at a time.
	Network(ctx context.Context) (net.Conn, error)
	// Console returns the guest's console output. It connects anew at each
	// call; what the guest wrote while nobody was connected is lost.
	Console(ctx context.Context) (io.ReadCloser, error)
	// Kill powers the VM off at once and returns when the VMM is gone.
	Kill(ctx context.Context) error
	// Wait returns when the VMM is gone, and how it ended. Every caller gets
	// the same answer.
	Wait(ctx context.Context) (Exit, error)
	// Info describes the VMM.
	Info() Info
	// Release lets go of the VMM without ending it: a successor may adopt it.
	Release() error
}

// Exit is how a VMM ended.
type Exit struct {
	// Clean is true if the guest powered itself off.
	Clean bool
	// Reason is for a person: "guest powered off", "killed by signal 9", …
	Reason string
}

// Info describes a VMM.
type Info struct {
	PID    int
	Driver string
	Accel  string
	// Confinement names what contains the VMM, strongest first.
	Confinement []string
}

// Link reaches the guest's agent. Everything it carries comes from an untrusted
// guest. Implementations bound the number of streams, their buffers and the
// rate of control frames; a guest that breaks the bounds ends the session, not
// the supervisor.
type Link interface {
	// Reset ends the present session, if any, and starts a new one with the
	// protocol of internal/linkwire. payload, if not empty, is a serialised
	// agentv1.Boot. It returns when both ends agree, or when ctx ends. Streams
	// of the old session fail.
	Reset(ctx context.Context, payload []byte) error
	// Dial opens a stream to a guest port (linkwire.Port…). It fails at once
	// with ErrNoSession when there is no session.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	// Broken is closed when the present session ends. With no session it is
	// closed already.
	Broken() <-chan struct{}
	// End ends the present session, if there is one, at both ends, and keeps the
	// channels for the next Reset. When it returns nothing is read from the guest,
	// which does nothing any more for that session. ctx bounds the wait for a Reset
	// under way and for the guest.
	End(ctx context.Context) error
	// Close ends the session and lets go of the channels.
	Close() error
}

// Pauser is an Instance whose guest can stand still.
type Pauser interface {
	// Pause stops the guest where it is, until Run; it takes no processor time
	// then. The guest link must have no session: one that waits this long for an
	// answer breaks. Pausing a paused guest is no error.
	Pause(ctx context.Context) error
}

// Resizer is an Instance whose disks can grow while the guest runs.
type Resizer interface {
	// Resize makes the writable disk with that serial size bytes large (a multiple
	// of 4 KiB), its file and what the guest sees. A disk that has that size is no
	// error, one that is larger is. What is on it is the guest's to grow.
	Resize(ctx context.Context, serial string, size int64) error
}

// Freezer is an Instance whose guest can be frozen into files. Only one that was
// started with Machine.Freezable.
type Freezer interface {
	// Freeze stops the guest, writes its memory and its devices' state to files
	// of the driver's own in dir, mode 0400, and ends the VMM. The files, and
	// what the guest wrote to its disks, are on disk then; dir is Machine.Dir or
	// on the same file system. The guest link
	// must have no session. The disks are as the guest left them, not unmounted:
	// they belong to the frozen guest from now on. When Freeze fails, the VMM is
	// ended too, and dir may hold parts.
	Freeze(ctx context.Context, dir string) error
}

// Restorer is a Driver that starts copies of a frozen guest.
type Restorer interface {
	// Restore is Start with the guest that was frozen into the files in from,
	// which any number of VMMs share and none changes; from may be removed while
	// they run. m's disks are copies of those that the guest was frozen with, as
	// large and as old (time of the last write), and the rest of m is equal to its
	// machine, but for ID and Dir; what is seen to differ is an error. The guest stands still until Run.
	Restore(ctx context.Context, m Machine, from string, save func(Handle) error) (Instance, error)
	// Fingerprint names everything of this host and driver that a frozen guest
	// depends on: build of the VMM, machine, devices, CPU. Guests frozen under
	// another fingerprint must not be restored.
	Fingerprint(m Machine) (string, error)
}

type driverError string

func (e driverError) Error() string { return string(e) }

// Errors that callers look for.
const (
	// ErrGone: the VMM of a handle does not live any more.
	ErrGone = driverError("the VMM is gone")
	// ErrNoSession: the guest link has no session; Reset makes one.
	ErrNoSession = driverError("no session with the guest")
)
