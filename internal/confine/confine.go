// Package confine starts a VMM with as little as it needs: no privileges to
// gain, no network, no environment, only the files it was given.
//
// The layers are applied by a short-lived wrapper, which is this same program
// run as `banger-vm confine …` and which then becomes the VMM (same process,
// same pid). A layer that the host does not allow is left out; Start says which
// ones hold, found by doing and not by asking versions.
package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// Command is the argument by which banger-vm runs Main.
const Command = "confine"

// The layers, as they are reported to a person. Seccomp is QEMU's own
// (-sandbox), so it is the driver that reports it.
const (
	Seccomp  = "seccomp"
	Landlock = "landlock"
	UserNS   = "user namespace"
	NetNS    = "network namespace"
)

// All are the layers of a full confinement, strongest first.
func All() []string { return []string{Seccomp, Landlock, UserNS, NetNS} }

// Policy is what the confined program may do. Paths are absolute; one that
// does not exist is ignored.
type Policy struct {
	// WriteDirs may be read and written, with all they contain.
	WriteDirs []string `json:"write_dirs,omitempty"`
	// WriteFiles may be read and written.
	WriteFiles []string `json:"write_files,omitempty"`
	// ReadDirs may be read, with all they contain, and programs in them run.
	ReadDirs []string `json:"read_dirs,omitempty"`
	// ReadFiles may be read.
	ReadFiles []string `json:"read_files,omitempty"`
	// Devices may be read, written and controlled.
	Devices []string `json:"devices,omitempty"`
	// AddressSpace bounds the memory it can map, in bytes; 0: no bound.
	AddressSpace uint64 `json:"address_space,omitempty"`
	// OOMScoreAdj makes the kernel prefer it, or not, when memory runs out.
	OOMScoreAdj int `json:"oom_score_adj,omitempty"`
}

// Program is what to confine.
type Program struct {
	// Self is the banger-vm to use as wrapper; empty: this program's file.
	Self string
	// Path and Args are the program and its arguments (without its name).
	Path string
	Args []string
	// Dir is its working directory.
	Dir string
	// Files become its descriptors FirstFile, FirstFile+1, …
	Files []*os.File
	// Output takes its stdout and stderr.
	Output *os.File
	Policy Policy
	// Substitute, if not nil, is a file that it gets read-only.
	Substitute *Substitute
}

// orders are what the wrapper is told.
type orders struct {
	Policy
	// Announce is the socket for the listener of a Substitute; 0: there is none.
	Announce int `json:"announce,omitempty"`
}

// FirstFile is the descriptor of the first of Program.Files. The gate is before
// it, and closed when the program starts.
const FirstFile = 4

// Started is a confined program that waits at its gate.
type Started struct {
	*vmmproc.Held
	// Layers that hold, strongest first.
	Layers []string

	substitution *substitution
}

// Open lets the program go on.
func (s *Started) Open() error {
	if s.substitution != nil {
		s.substitution.start()
	}
	return s.Held.Open()
}

// Drop closes the gate for good, if it is not open, and ends the Substitute.
func (s *Started) Drop() {
	s.Held.Drop()
	if s.substitution != nil {
		s.substitution.close()
	}
}

// namespaces are tried in order; the last always works.
type namespaces struct {
	flags  uintptr
	layers []string
}

func attempts() []namespaces {
	all := []namespaces{{
		unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWIPC, []string{UserNS, NetNS},
	}}
	if os.Geteuid() == 0 {
		all = append(all, namespaces{unix.CLONE_NEWNET | unix.CLONE_NEWIPC, []string{NetNS}})
	}
	return append(all, namespaces{unix.CLONE_NEWUSER, []string{UserNS}}, namespaces{})
}

// Start runs p in a session of its own, in the namespaces that the host allows.
// It waits at its gate; what goes wrong behind it is written to p.Output.
func Start(p Program) (*Started, error) {
	if p.Self == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		p.Self = self
	}
	o := orders{Policy: p.Policy}
	var sub *substitution
	if p.Substitute != nil {
		var announce *os.File
		var err error
		if sub, announce, err = newSubstitution(*p.Substitute); err != nil {
			return nil, err
		}
		defer announce.Close()
		o.Announce = FirstFile + len(p.Files)
		p.Files = append(slices.Clone(p.Files), announce)
	}
	started, err := p.start(o)
	switch {
	case err == nil:
		started.substitution = sub
	case sub != nil:
		sub.close()
	}
	return started, err
}

// start tries the namespaces.
func (p Program) start(o orders) (*Started, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var landlock []string
	if landlockWorks() {
		landlock = []string{Landlock}
	}
	var failures []error
	for _, ns := range attempts() {
		held, err := vmmproc.Spawn(p.command(string(text), ns.flags))
		if err == nil {
			return &Started{Held: held, Layers: append(landlock, ns.layers...)}, nil
		}
		failures = append(failures, err)
		if !refusal(err) {
			break
		}
	}
	return nil, fmt.Errorf("run %s: %w", p.Self, failures[len(failures)-1])
}

// refusal says whether err may come from namespaces that the host forbids.
func refusal(err error) bool {
	for _, errno := range []syscall.Errno{unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOSPC, unix.EUSERS, unix.ENOSYS} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func (p Program) command(orders string, flags uintptr) *exec.Cmd {
	cmd := exec.Command(p.Self, append([]string{Command, orders, p.Path}, p.Args...)...)
	cmd.Env = []string{}
	cmd.Dir = p.Dir
	cmd.Stdout, cmd.Stderr = p.Output, p.Output
	cmd.ExtraFiles = append([]*os.File(nil), p.Files...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		// One id each way. It is never 0 inside, so that the program has no
		// capability even there. Supplementary groups (kvm) stay: setgroups
		// is denied, not used.
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside(os.Geteuid()), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: inside(os.Getegid()), HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

func inside(id int) int {
	if id == 0 {
		return 1
	}
	return id
}

// Missing returns the layers of a full confinement that are not in have.
func Missing(have []string) []string {
	var missing []string
	for _, layer := range All() {
		if !slices.Contains(have, layer) {
			missing = append(missing, layer)
		}
	}
	return missing
}
