// Package doctor checks what banger needs of a host: each check says what it
// found and the exact command that mends it. It runs without the daemon, and
// changes nothing unless it is asked to repair.
package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/vmhost"
)

// Status is the outcome of a check.
type Status string

// The outcomes. OK needs nothing, Warn works but could be better, Fail is
// needed and does not work.
const (
	OK   Status = "ok"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Check is one check.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Found says what is there.
	Found string `json:"found"`
	// Fix is the exact command that mends it; empty if there is none.
	Fix string `json:"fix,omitempty"`
}

// Report is all checks, in a fixed order.
type Report struct {
	Checks []Check `json:"checks"`
}

// Failed reports whether something that is needed fails.
func (r Report) Failed() bool {
	for _, c := range r.Checks {
		if c.Status == Fail {
			return true
		}
	}
	return false
}

// String is the report for a person: a line per check, and one for its fix.
func (r Report) String() string {
	var out strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&out, "%-4s  %s: %s\n", c.Status, c.Name, c.Found)
		if c.Fix != "" {
			fmt.Fprintf(&out, "      fix: %s\n", c.Fix)
		}
	}
	return out.String()
}

// Options are what the checks look at.
type Options struct {
	Home   layout.Home
	Host   config.Host
	Getenv func(string) string
	// Probe finds out what can run VMs.
	Probe func(context.Context) (vmhost.Found, error)
	// Root is where the host's files are; empty: /. LookupHost finds a name as
	// programs of this host do; nil: the system's.
	Root       string
	LookupHost func(context.Context, string) ([]string, error)
	// Repair removes leftovers.
	Repair bool
	Log    *slog.Logger
}

// limit bounds all checks together: a probe may boot a kernel.
const limit = 2 * time.Minute

// examiner makes one report.
type examiner struct {
	Options
	cfg    config.Config
	found  vmhost.Found
	report Report
	// status is the daemon's; nil: it does not answer.
	status *bangerv1.StatusResponse
}

// Run makes the checks. It always returns a whole report.
func Run(ctx context.Context, o Options) Report {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e := &examiner{Options: o}
	if e.Root == "" {
		e.Root = "/"
	}
	if e.LookupHost == nil {
		e.LookupHost = systemLookup
	}
	e.config()
	e.stateDir()
	e.daemon(ctx)
	e.names(ctx)
	e.vmm(ctx)
	e.programs()
	e.kernelFeatures()
	e.space()
	e.image()
	e.templates()
	e.spares()
	e.defaults()
	e.leftovers(ctx)
	return e.report
}

func (e *examiner) add(status Status, name, fix, format string, args ...any) {
	e.report.Checks = append(e.report.Checks, Check{Name: name, Status: status, Found: fmt.Sprintf(format, args...), Fix: fix})
}

func (e *examiner) ok(name, format string, args ...any) { e.add(OK, name, "", format, args...) }

func (e *examiner) config() {
	cfg, err := config.Load(e.Home)
	if err != nil {
		e.add(Fail, "config", "edit "+e.Home.ConfigFile(), "%v", err)
		return
	}
	e.cfg = cfg
	e.ok("config", "%s is understood (or not there: all defaults)", e.Home.ConfigFile())
}

// defaults shows what a VM gets, each with its origin.
func (e *examiner) defaults() {
	d := config.Resolve(e.cfg, e.Host)
	e.ok("vm defaults", "image %s (%s), %d vcpu (%s), %d MiB memory (%s), %s disk (%s), %s system overlay (%s), nat %v (%s), driver %s (%s), accel %s (%s)",
		d.Image.Value, d.Image.Origin, d.VCPU.Value, d.VCPU.Origin, d.MemoryMiB.Value, d.MemoryMiB.Origin,
		size(d.DiskBytes.Value), d.DiskBytes.Origin, size(d.OverlayBytes.Value), d.OverlayBytes.Origin,
		d.NAT.Value, d.NAT.Origin, d.Driver.Value, d.Driver.Origin, d.Accel.Value, d.Accel.Origin)
}
