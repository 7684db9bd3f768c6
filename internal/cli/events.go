package cli

import (
	"fmt"
	"strings"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/progress"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// defaultReady is how long a guest may take to become ready.
const defaultReady = 90 * time.Second

// events shows what the daemon reports of a create or a start.
type events struct {
	*progress.Reporter
	// spec is what the VM gets, once it is known.
	spec *bangerv1.VM
}

// events starts to show the work on one VM; the caller closes it.
func (a *App) events(label string) (*events, error) {
	reporter, err := a.reporter(label)
	if err != nil {
		return nil, err
	}
	return &events{Reporter: reporter}, nil
}

// Spec shows what the VM really gets.
func (e *events) Spec(vm *bangerv1.VM) {
	e.spec = vm
	e.Message(specLine(vm))
	e.Event(map[string]any{"spec": viewVM(vm)})
}

// Progress shows one step.
func (e *events) Progress(p *bangerv1.Progress) {
	e.Update(banger.Progress{Stage: safe.Line(p.Stage), Detail: p.Detail, Done: p.Done, Total: p.Total,
		Finished: p.Finished, Elapsed: time.Duration(p.ElapsedMs) * time.Millisecond})
}

// degraded says which units of a ready guest have failed.
func (e *events) degraded(vm *bangerv1.VM) {
	if units := vm.GetFailedUnits(); len(units) > 0 {
		e.Message(fmt.Sprintf("vm %q is ready, with failed units: %s", vm.Name, safe.Line(strings.Join(units, ", "))))
	}
}
