package confine

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	landlock "github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// maxFiles is how many descriptors a VMM may have: it opens a dozen.
const maxFiles = 1024

// Main is the wrapper: args are orders as JSON, a program and its arguments.
// It waits at the gate, gives up what the policy does not grant, and becomes
// the program. It returns only when that fails.
func Main(args []string) error {
	if len(args) < 2 {
		return errors.New("confine: usage: confine POLICY PROGRAM [ARG…]")
	}
	var o orders
	if err := json.Unmarshal([]byte(args[0]), &o); err != nil {
		return fmt.Errorf("confine: policy: %w", err)
	}
	if err := vmmproc.Await(); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	// Some of what follows belongs to a thread; the same one becomes the program.
	runtime.LockOSThread()
	if err := o.apply(); err != nil {
		return fmt.Errorf("confine: %w", err)
	}
	if o.Announce > 0 {
		if err := announce(o.Announce); err != nil {
			return fmt.Errorf("confine: %w", err)
		}
	}
	if err := unix.Exec(args[1], args[1:], []string{}); err != nil {
		return fmt.Errorf("confine: run %s: %w", args[1], err)
	}
	return nil
}

// apply gives up everything but the policy, for this thread and what it execs.
func (p Policy) apply() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// Raising the score needs no privilege; lowering it may be refused, and
	// then the VMM keeps what it inherited.
	oom := strconv.Itoa(p.OOMScoreAdj)
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oom), 0); err != nil && p.OOMScoreAdj > 0 {
		return fmt.Errorf("oom_score_adj: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := p.limit(); err != nil {
		return err
	}
	return p.landlock()
}

func (p Policy) limit() error {
	if err := lower(unix.RLIMIT_CORE, 0); err != nil {
		return fmt.Errorf("limit core dumps: %w", err)
	}
	if err := lower(unix.RLIMIT_NOFILE, maxFiles); err != nil {
		return fmt.Errorf("limit files: %w", err)
	}
	if p.AddressSpace == 0 {
		return nil
	}
	if err := lower(unix.RLIMIT_AS, p.AddressSpace); err != nil {
		return fmt.Errorf("limit memory: %w", err)
	}
	return nil
}

// lower sets both limits of resource, never above what they are.
func lower(resource int, limit uint64) error {
	var now unix.Rlimit
	if err := unix.Getrlimit(resource, &now); err != nil {
		return err
	}
	limit = min(limit, now.Max)
	return unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit})
}

// dropCapabilities empties the bounding set, which is what an exec by uid 0
// would get. Without CAP_SETPCAP there is nothing to drop.
func dropCapabilities() error {
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			return nil // past the last one, or none held
		}
		if err != nil {
			return err
		}
	}
}

// landlockWorks reports whether this kernel has Landlock, switched on.
func landlockWorks() bool {
	version, err := ll.LandlockGetABIVersion()
	return err == nil && version > 0
}

// landlock restricts files, TCP ports, signals and abstract sockets as far as
// this kernel knows how to.
func (p Policy) landlock() error {
	if !landlockWorks() {
		return nil
	}
	rules := []landlock.Rule{
		landlock.RWDirs(p.WriteDirs...).IgnoreIfMissing(),
		landlock.RWFiles(p.WriteFiles...).IgnoreIfMissing(),
		landlock.RODirs(p.ReadDirs...).IgnoreIfMissing(),
		landlock.ROFiles(p.ReadFiles...).IgnoreIfMissing(),
		landlock.RWFiles(p.Devices...).WithIoctlDev().IgnoreIfMissing(),
	}
	if err := landlock.V6.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("landlock: %w", err)
	}
	return nil
}
