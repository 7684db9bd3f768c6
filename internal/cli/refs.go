package cli

import (
	"context"
	"fmt"
	"strings"
	"sync"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// resolve finds the VM of a reference: full id, name, or unique id prefix.
func resolve(vms []*bangerv1.VM, ref string) (*bangerv1.VM, error) {
	var byPrefix []*bangerv1.VM
	for _, vm := range vms {
		if vm.Id == ref || vm.Name == ref {
			return vm, nil
		}
		if ref != "" && strings.HasPrefix(vm.Id, ref) {
			byPrefix = append(byPrefix, vm)
		}
	}
	switch len(byPrefix) {
	case 1:
		return byPrefix[0], nil
	case 0:
		return nil, banger.Errorf(banger.CodeNotFound, "vm %q does not exist", ref).WithHint("banger vm list -a")
	}
	candidates := make([]string, 0, len(byPrefix))
	for _, vm := range byPrefix {
		candidates = append(candidates, fmt.Sprintf("%s (%s)", banger.ShortID(vm.Id), vm.Name))
	}
	return nil, banger.Errorf(banger.CodeUsage, "vm %q is ambiguous: %s", ref, strings.Join(candidates, ", ")).
		WithHint("more digits of the id, or the name")
}

// outcome is what happened to one of several VMs.
type outcome struct {
	Ref   string     `json:"ref"`
	ID    string     `json:"id,omitempty"`
	Name  string     `json:"name,omitempty"`
	State string     `json:"state,omitempty"`
	Error *errorView `json:"error,omitempty"`

	err error
}

// each does one thing to several VMs: resolved from one list, duplicates
// dropped, all at once, with the outcomes in the order first seen. A bad one
// does not stop the good ones.
func (a *App) each(ctx context.Context, refs []string, do func(context.Context, *bangerv1.VM) (state string, err error)) ([]*outcome, error) {
	c, err := a.Client()
	if err != nil {
		return nil, err
	}
	vms, err := c.ListVMs(ctx)
	if err != nil {
		return nil, err
	}
	outcomes, targets := resolveAll(vms, refs)
	var all sync.WaitGroup
	for i, vm := range targets {
		if vm == nil {
			continue
		}
		all.Go(func() {
			o := outcomes[i]
			o.State, o.err = do(ctx, vm)
		})
	}
	all.Wait()
	return outcomes, nil
}

// eachBusy is each, with a sign of life and the report.
func (a *App) eachBusy(ctx context.Context, stage string, refs []string, do func(context.Context, *bangerv1.VM) (string, error)) error {
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	reporter.Update(banger.Progress{Stage: stage, Detail: strings.Join(refs, " ")})
	outcomes, err := a.each(ctx, refs, do)
	reporter.Close()
	if err != nil {
		return err
	}
	return a.reportOutcomes(outcomes)
}

// resolveAll pairs each distinct reference with its VM, or with an error.
func resolveAll(vms []*bangerv1.VM, refs []string) (outcomes []*outcome, targets []*bangerv1.VM) {
	seen := map[string]bool{}
	for _, ref := range refs {
		vm, err := resolve(vms, ref)
		key := "ref:" + ref
		o := &outcome{Ref: ref, err: err}
		if err == nil {
			key, o.ID, o.Name = vm.Id, vm.Id, vm.Name
		}
		if seen[key] {
			continue
		}
		seen[key] = true
		outcomes, targets = append(outcomes, o), append(targets, vm)
	}
	return outcomes, targets
}

// reportOutcomes prints names (ids with -q) or one array; failures go to
// stderr. Its error carries the exit code: that of the failures, if they agree.
func (a *App) reportOutcomes(outcomes []*outcome) error {
	var first error
	code := 0
	for _, o := range outcomes {
		o.Error = viewError(o.err)
		if o.err != nil {
			own := exitCode(o.err, false)
			if first == nil {
				first, code = o.err, own
			} else if own != code {
				code = 1
			}
		}
	}
	if a.json {
		if err := a.printJSON(outcomes); err != nil {
			return err
		}
	}
	if len(outcomes) == 1 && first != nil {
		return first
	}
	for _, o := range outcomes {
		if err := a.reportOutcome(o); err != nil {
			return err
		}
	}
	return withCode(code)
}

func (a *App) reportOutcome(o *outcome) error {
	switch {
	case o.err != nil:
		message, _ := errorText(o.err)
		fmt.Fprintf(a.IO.Err, "banger: %s\n", message)
	case a.json:
	case a.quiet:
		return a.println(o.ID)
	default:
		return a.println(safe.Line(o.Name))
	}
	return nil
}
