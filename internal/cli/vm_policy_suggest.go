package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/policy"
	"github.com/banger-dev/banger/internal/policy/policyfile"
)

// vmPolicySuggestOptions are the flags of vm policy suggest.
type vmPolicySuggestOptions struct {
	app *App
	ref string
}

func (a *App) newVMPolicySuggest(run func(context.Context, *vmPolicySuggestOptions) error) *cobra.Command {
	opts := &vmPolicySuggestOptions{app: a}
	if run == nil {
		run = runVMPolicySuggest
	}
	return &cobra.Command{
		Use: "suggest NAME", Short: "Print the shortest policy that would have let through what a VM did", Args: exactly(1, "NAME"),
		Long: "Reads the log of a VM that learns (--policy learn) and prints a policy file under which the\n" +
			"same would pass. Three names below one domain become *.domain: look at it before it is used.\n" +
			"Private addresses are in no file: they are named on stderr, for --allow.",
		Example: examples("banger vm create --name dev --policy learn", "banger exec dev -- make deps",
			"banger vm policy suggest dev > policy.toml", "banger run --rm --policy policy.toml -- make deps"),
		ValidArgsFunction: a.completeOneVM(anyState),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.ref = args[0]
			return run(cmd.Context(), opts)
		},
	}
}

// suggestView is a suggestion in JSON.
type suggestView struct {
	Default string   `json:"default"`
	Rules   []string `json:"rules"`
	Allow   []string `json:"allow"`
	Lines   int64    `json:"lines"`
}

func runVMPolicySuggest(ctx context.Context, opts *vmPolicySuggestOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	got, err := c.SuggestPolicy(ctx, opts.ref)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(suggestView{got.Policy.Default, append([]string{}, got.Policy.Rules...), append([]string{}, got.Allow...), got.Lines})
	}
	p, err := policy.Parse(got.Policy.Default, got.Policy.Rules, false)
	if err != nil {
		return err
	}
	if len(got.Allow) > 0 && !a.quiet {
		fmt.Fprintf(a.IO.Err, "only the command line opens private addresses: --allow %s\n", strings.Join(got.Allow, " --allow "))
	}
	if got.Lines == 0 && !a.quiet {
		fmt.Fprintf(a.IO.Err, "vm %q has nothing in its log to learn from; try: banger vm policy set %s learn\n", opts.ref, opts.ref)
	}
	_, err = fmt.Fprint(a.IO.Out, policyfile.Format(p))
	return err
}

// showLearned shows, on stderr, what a VM has learned that is about to go.
func (a *App) showLearned(ctx context.Context, vm *bangerv1.VM) {
	if a.quiet {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupWithin)
	defer cancel()
	got, err := a.client.SuggestPolicy(ctx, vm.Id)
	if err != nil {
		message, _ := errorText(err)
		fmt.Fprintf(a.IO.Err, "banger: vm %q: what it learned is lost: %s\n", vm.Name, message)
		return
	}
	p, err := policy.Parse(got.Policy.Default, got.Policy.Rules, false)
	if err != nil {
		return // the daemon has parsed it
	}
	comments := []string{"Learned: the same passes with this file as --policy FILE."}
	if len(got.Allow) > 0 {
		comments = append(comments, "Only the command line opens private addresses: --allow "+strings.Join(got.Allow, " --allow "))
	}
	fmt.Fprint(a.IO.Err, policyfile.Format(p, comments...))
}
