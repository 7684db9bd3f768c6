package cli

import (
	"context"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/cli/safe"
	"github.com/banger-dev/banger/internal/policy"
)

// vmPolicySetOptions are the flags of vm policy set.
type vmPolicySetOptions struct {
	app    *App
	ref    string
	policy policyOptions
}

// The words that stand for a policy in the place of a file, beside policyLearn.
const (
	policyOpen  = "open"
	policyNone  = "none"
	policyStdin = "-"
)

func (a *App) newVMPolicySet(run func(context.Context, *vmPolicySetOptions) error) *cobra.Command {
	opts := &vmPolicySetOptions{app: a}
	if run == nil {
		run = runVMPolicySet
	}
	cmd := &cobra.Command{
		Use: "set NAME [FILE|learn|open|none]", Short: "Replace a VM's policy, also while it runs",
		Long: "Replaces the policy. It is in force when the command returns: connections that it forbids\n" +
			"have ended, and so have those that nobody can tell the name of any more. FILE is TOML:\n\n" +
			"  default = \"deny\"\n  rules = [\"allow *.debian.org\", \"deny 203.0.113.0/24\"]\n\n" +
			"- reads it from stdin. learn lets all through and logs what the rules refuse; open is no\n" +
			"rules; none lets nothing out. The rules of --allow come before those of FILE; without FILE\n" +
			"all else is denied.\n\n" + policyHelp,
		Example: examples("banger vm policy set dev policy.toml", "banger vm policy set dev --allow '*.debian.org' --allow 10.0.0.5:5432",
			"banger vm policy set dev open", "banger vm policy suggest dev | banger vm policy set dev -"),
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usagef(cmd, "NAME is missing")
			case len(args) > 2:
				return usagef(cmd, "%q is one argument too many", args[2])
			case len(args) == 1 && len(opts.policy.allow) == 0:
				return usagef(cmd, "what may it reach? FILE, learn, open, none or --allow is missing")
			}
			return nil
		},
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			if len(args) == 2 {
				opts.policy.file = args[1]
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringArrayVar(&opts.policy.allow, "allow", nil, "a `target` that it may reach (repeatable)")
	return cmd
}

func runVMPolicySet(ctx context.Context, opts *vmPolicySetOptions) error {
	a := opts.app
	req, err := opts.request()
	if err != nil {
		return err
	}
	c, err := a.Client()
	if err != nil {
		return err
	}
	set, err := c.SetPolicy(ctx, req)
	switch {
	case err != nil:
		return err
	case a.json:
		return a.printJSON(viewVM(set.Vm))
	case a.quiet:
		return a.println(set.Vm.Id)
	}
	return a.println(safe.Line(set.Vm.Name))
}

// request is what is asked of the daemon.
func (o *vmPolicySetOptions) request() (*bangerv1.SetPolicyRequest, error) {
	req := &bangerv1.SetPolicyRequest{Ref: o.ref, Allow: o.policy.allow}
	nat := o.policy.file != policyNone
	var err error
	switch o.policy.file {
	case policyNone:
		if len(o.policy.allow) > 0 {
			return nil, banger.Errorf(banger.CodeUsage, "with none nothing leaves the VM: there is nothing to allow").WithHint("leave out none")
		}
	case policyOpen:
		req.Policy = &bangerv1.Policy{Default: policy.DefaultAllow}
	case policyStdin:
		req.Policy, err = readPolicy("(stdin)", o.app.IO.In)
	default:
		req.Policy, err = o.policy.read()
	}
	req.Nat = &nat
	return req, err
}
