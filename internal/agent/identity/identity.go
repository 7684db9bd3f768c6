// Package identity makes a guest the VM that its host says it is: names,
// machine-id, clock, entropy, network. Applying it again, or another one, is
// always allowed.
package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"golang.org/x/sys/unix"
)

// maxHostname is the kernel's bound, in bytes.
const maxHostname = 64

// Apply applies boot, but for the network's addresses (ApplyNetwork). It does as
// much as it can; the error joins what it could not do. Entropy comes first, so
// that nothing is made from an old state of it.
func Apply(boot *agentv1.Boot, random *Random) error {
	var errs failures
	if len(boot.Entropy) > 0 {
		errs.add("entropy", random.AddEntropy(boot.Entropy))
	}
	errs.add("names", applyNames(boot))
	if boot.TimeUnixNs > 0 {
		errs.add("clock", catchUp(time.Unix(0, boot.TimeUnixNs)))
	}
	return errors.Join(errs...)
}

// applyNames makes host name, machine id and name servers those of boot.
func applyNames(boot *agentv1.Boot) error {
	var errs failures
	errs.add("host name", applyHostname("/etc", boot.Hostname))
	errs.add("machine id", writeMachineID("/etc", boot.MachineId))
	if boot.Network != nil {
		errs.add("name servers", writeResolvConf("/etc", boot.Network.Nameservers))
	}
	return errors.Join(errs...)
}

// failures collects what could not be done.
type failures []error

func (f *failures) add(what string, err error) {
	if err != nil {
		*f = append(*f, fmt.Errorf("%s: %w", what, err))
	}
}

// minEntropy is what a copy of a guest must get, in bytes.
const minEntropy = 32

// Resume makes a guest that was frozen another one than its siblings; with Settle
// it is the one of boot. After an error of either nothing else may run in it: it
// would repeat what they draw, or live at another time.
func Resume(boot *agentv1.Boot, random *Random) error {
	if len(boot.Entropy) < minEntropy {
		return fmt.Errorf("%w: %d bytes of entropy are too few", ErrNotOwn, len(boot.Entropy))
	}
	if boot.TimeUnixNs <= 0 {
		return fmt.Errorf("%w: no time", ErrNotOwn)
	}
	if err := random.AddEntropy(boot.Entropy); err != nil {
		return fmt.Errorf("%w: %w", ErrNotOwn, err)
	}
	return nil
}

// Settle does the rest of what Resume began with a boot that was heard at that
// time. It is for behind the answer to boot, and before anything that the host may
// ask for: when the names and the clock change, an init system looks at all it
// has, and would take the processor from what the host waits for. An error that is
// not ErrNotOwn joins what it could not do.
func Settle(boot *agentv1.Boot, heard time.Time) error {
	// Its clock stood still. Ahead of the host's it may be, too, if that was set
	// back meanwhile.
	names := applyNames(boot)
	if err := SetClock(time.Unix(0, boot.TimeUnixNs).Add(time.Since(heard))); err != nil {
		return fmt.Errorf("%w: clock: %w", ErrNotOwn, err)
	}
	return names
}

// ErrNotOwn: a copy of a guest would go on as what it was copied from.
var ErrNotOwn = errors.New("this copy of a template is not its own")

func applyHostname(etc, name string) error {
	if name == "" {
		return nil
	}
	if !validHostname(name) {
		return fmt.Errorf("%q is no host name", name)
	}
	return errors.Join(writeNames(etc, name), unix.Sethostname([]byte(name)))
}

func writeMachineID(etc, id string) error {
	if id == "" {
		return nil
	}
	if !validMachineID(id) {
		return fmt.Errorf("%q is not 32 hex digits", id)
	}
	old := readSmall(filepath.Join(etc, "machine-id"))
	if err := replaceFile(etc, "machine-id", id+"\n", 0o444); err != nil {
		return err
	}
	return moveJournal(journals, strings.TrimSpace(old), id)
}

// journals is where journald, once it runs, keeps its journals in memory, by
// machine id.
const journals = "/run/log/journal"

// moveJournal lets journalctl find under the new id what was logged under the
// old one: journald holds its files open and does not mind.
func moveJournal(dir, old, id string) error {
	if !validMachineID(old) || old == id {
		return nil
	}
	err := os.Rename(filepath.Join(dir, old), filepath.Join(dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func validHostname(name string) bool {
	return name != "" && len(name) <= maxHostname && alphanumeric(name[0]) && alphanumeric(name[len(name)-1]) &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return r > 127 || !alphanumeric(byte(r)) && r != '-' && r != '.'
		})
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func validMachineID(id string) bool {
	return len(id) == 32 && !strings.ContainsFunc(id, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdef", r)
	})
}

// maxAhead is how far the guest's clock may be ahead of the message's: the
// message can wait that long until the agent is up, while the guest's clock,
// begun from the VMM's, is right to a second.
const maxAhead = time.Minute

// catchUp sets the clock if it stands before now, or too far after it.
func catchUp(now time.Time) error {
	if ahead := time.Since(now); ahead >= 0 && ahead < maxAhead {
		return nil
	}
	return SetClock(now)
}

// SetClock sets the wall clock.
func SetClock(now time.Time) error {
	tv := unix.NsecToTimeval(now.UnixNano())
	return os.NewSyscallError("settimeofday", unix.Settimeofday(&tv))
}
