package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/policy/policyfile"
)

// newVMPolicy is the group of commands on what a VM may reach.
func (a *App) newVMPolicy() *cobra.Command {
	cmd := newGroup("policy", "Say what a VM may reach, and see what it was refused",
		"banger run --rm --allow '*.debian.org' -- apt-get update",
		"banger run --rm --policy learn -- make deps   # shows the policy that would do",
		"banger vm create --name dev --policy learn    # or use it, and then:",
		"banger vm policy suggest dev > policy.toml",
		"banger vm policy set dev policy.toml          # while it runs",
		"banger vm policy log -f dev")
	cmd.Long = cmd.Short + ".\n\n" + policyHelp
	cmd.AddCommand(a.newVMPolicyShow(nil), a.newVMPolicySet(nil), a.newVMPolicyLog(nil), a.newVMPolicyCheck(nil), a.newVMPolicySuggest(nil))
	return cmd
}

// vmPolicyShowOptions are the flags of vm policy show.
type vmPolicyShowOptions struct {
	app *App
	ref string
}

func (a *App) newVMPolicyShow(run func(context.Context, *vmPolicyShowOptions) error) *cobra.Command {
	opts := &vmPolicyShowOptions{app: a}
	if run == nil {
		run = runVMPolicyShow
	}
	return &cobra.Command{
		Use: "show NAME", Short: "Show a VM's policy, as a file, and how often it refused", Args: exactly(1, "NAME"),
		Example:           examples("banger vm policy show dev", "banger vm policy show dev > policy.toml", "banger vm policy show --json dev | jq .refused"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return run(cmd.Context(), opts)
		},
	}
}

// policyView is a VM's policy in JSON.
type policyView struct {
	VM          string            `json:"vm"`
	NAT         bool              `json:"nat"`
	Default     string            `json:"default"`
	Rules       []string          `json:"rules"`
	Learn       bool              `json:"learn"`
	InForce     bool              `json:"in_force"`
	Refused     map[string]uint64 `json:"refused"`
	WouldRefuse uint64            `json:"would_refuse"`
}

func runVMPolicyShow(ctx context.Context, opts *vmPolicyShowOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	got, err := c.GetPolicy(ctx, opts.ref)
	if err != nil {
		return err
	}
	if a.json {
		refused := got.Refused
		if refused == nil {
			refused = map[string]uint64{}
		}
		return a.printJSON(policyView{
			VM: got.Vm.Name, NAT: got.Vm.Nat, Default: got.Policy.Default, Rules: append([]string{}, got.Policy.Rules...),
			Learn: got.Policy.Learn, InForce: got.InForce, Refused: refused, WouldRefuse: got.WouldRefuse,
		})
	}
	p, err := policy.Parse(got.Policy.Default, got.Policy.Rules, true)
	if err != nil {
		return err
	}
	if !a.quiet {
		fmt.Fprintln(a.IO.Err, describePolicy(got))
	}
	_, err = fmt.Fprint(a.IO.Out, policyfile.Format(p))
	return err
}

// describePolicy is what is to be said beside the rules.
func describePolicy(got *bangerv1.GetPolicyResponse) string {
	name := safe.Line(got.Vm.Name)
	parts := []string{}
	switch {
	case !got.Vm.Nat:
		parts = append(parts, "nat is off: nothing leaves it, whatever the rules say")
	case got.Policy.Learn:
		parts = append(parts, fmt.Sprintf("is learning: all is let through, %d that the rules would refuse", got.WouldRefuse))
	case got.InForce:
		parts = append(parts, "in force")
	default:
		parts = append(parts, "comes into force when the VM runs")
	}
	for _, reason := range slices.Sorted(maps.Keys(got.Refused)) {
		parts = append(parts, fmt.Sprintf("%d refused: %s", got.Refused[reason], reason))
	}
	return fmt.Sprintf("policy of vm %q: %s", name, strings.Join(parts, "; "))
}
