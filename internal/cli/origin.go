package cli

import (
	"github.com/spf13/pflag"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// The origins of a VM that did not boot.
const (
	originTemplate = "template"
	originSpare    = "spare"
)

// addVerbose adds -v to the flags of a command that starts VMs.
func addVerbose(flags *pflag.FlagSet, verbose *bool) {
	flags.BoolVarP(verbose, "verbose", "v", false, "say whether the VM started from a template, and why not")
}

// origin says how the VM began, and where it booted why. unsaid is the reason
// where the daemon names none.
func (e *events) origin(vm *bangerv1.VM, unsaid string) {
	switch {
	case banger.State(vm.GetState()) != banger.StateRunning:
	case vm.Origin == originSpare:
		e.Message("started from a spare")
	case vm.Origin == originTemplate && vm.SpareError != "":
		e.Message("started from a template: the spare could not be used: " + safe.Line(vm.SpareError))
	case vm.Origin == originTemplate:
		e.Message("started from a template")
	case vm.TemplateError != "":
		e.Message("booted: the template could not be used: " + safe.Line(vm.TemplateError))
	default:
		e.Message("booted: " + unsaid)
	}
}

// describeOrigin is the origin in vm show.
func describeOrigin(vm *bangerv1.VM) string {
	if vm.TemplateError != "" {
		return vm.Origin + " (the template could not be used: " + vm.TemplateError + ")"
	}
	return vm.Origin
}
