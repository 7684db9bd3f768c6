package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

// vmPolicyCheckOptions are the flags of vm policy check.
type vmPolicyCheckOptions struct {
	app         *App
	ref, target string
}

func (a *App) newVMPolicyCheck(run func(context.Context, *vmPolicyCheckOptions) error) *cobra.Command {
	opts := &vmPolicyCheckOptions{app: a}
	if run == nil {
		run = runVMPolicyCheck
	}
	return &cobra.Command{
		Use: "check NAME HOST[:PORT]", Short: "Say whether a VM may reach a host, and by which rule", Args: exactly(2, "NAME or HOST:PORT"),
		Long: "Decides a connection that nobody makes: to HOST, port 443 if there is none, with /udp for a\n" +
			"datagram. Nothing is looked up: whether a name leads to a private address is seen when it\n" +
			"is used. The exit code is 0 if it is allowed, and 1 if not.",
		Example:           examples("banger vm policy check dev example.org:443", "banger vm policy check dev 10.0.0.1:22"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref, opts.target = args[0], args[1]
			return run(cmd.Context(), opts)
		},
	}
}

// checkView is a verdict in JSON.
type checkView struct {
	Target  string `json:"target"`
	Allowed bool   `json:"allowed"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason,omitempty"`
}

func runVMPolicyCheck(ctx context.Context, opts *vmPolicyCheckOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	verdict, err := c.CheckPolicy(ctx, opts.ref, opts.target)
	if err != nil {
		return err
	}
	word := "allowed"
	text := verdict.Rule
	if !verdict.Allow {
		word = "refused"
		text += " (" + verdict.Reason + ")"
	}
	switch {
	case a.json:
		err = a.printJSON(checkView{opts.target, verdict.Allow, verdict.Rule, verdict.Reason})
	case a.quiet:
		err = a.println(word)
	default:
		err = a.println(fmt.Sprintf("%s: %s", word, text))
	}
	if err != nil || verdict.Allow {
		return err
	}
	return withCode(1)
}
