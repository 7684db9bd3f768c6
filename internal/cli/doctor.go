package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/cli/safe"
)

// doctorOptions are the flags of doctor.
type doctorOptions struct {
	app    *App
	repair bool
	// examine runs the checks and returns their report in JSON.
	examine func(ctx context.Context, repair bool) ([]byte, error)
}

func (a *App) newDoctor(run func(context.Context, *doctorOptions) error) *cobra.Command {
	opts := &doctorOptions{app: a, examine: a.examine}
	if run == nil {
		run = runDoctor
	}
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check this host: what works, what does not, and what mends it", Args: none,
		Long: "Checks what banger needs of this host. Exit code 5 if something that is needed fails.",
		Example: examples("banger doctor", "banger doctor --repair    # ends and removes leftovers",
			"banger doctor --json | jq '.checks[] | select(.status == \"fail\")'"),
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
	cmd.Flags().BoolVar(&opts.repair, "repair", false, "mend leftovers of VMs and builds that are gone")
	return cmd
}

// doctorReport is what the checks found.
type doctorReport struct {
	Checks []doctorCheck `json:"checks"`
}

// doctorCheck is one check.
type doctorCheck struct {
	Name string `json:"name"`
	// Status is "ok", "warn" or "fail".
	Status string `json:"status"`
	Found  string `json:"found"`
	// Fix is the command that mends it.
	Fix string `json:"fix,omitempty"`
}

func runDoctor(ctx context.Context, opts *doctorOptions) error {
	a := opts.app
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	reporter.Update(banger.Progress{Stage: "checking", Detail: "the host"})
	data, err := opts.examine(ctx, opts.repair)
	reporter.Close()
	if err != nil {
		return err
	}
	var report doctorReport
	if err := json.Unmarshal(data, &report); err != nil {
		return banger.Errorf(banger.CodeUnavailable, "the report of bangerd cannot be read: %w", err).WithHint("make install")
	}
	if a.json {
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSpace(data), "", "  "); err != nil {
			return err
		}
		if err := a.println(indented.String()); err != nil {
			return err
		}
	} else if err := opts.show(report); err != nil {
		return err
	}
	for _, check := range report.Checks {
		if check.Status == "fail" {
			return withCode(banger.CodeUnavailable.ExitCode())
		}
	}
	return nil
}

// show prints a line per check, and under it what mends it. With -q only what
// is not ok is named.
func (o *doctorOptions) show(report doctorReport) error {
	a := o.app
	for _, check := range report.Checks {
		if a.quiet {
			if check.Status != "ok" {
				if err := a.println(check.Name); err != nil {
					return err
				}
			}
			continue
		}
		line := fmt.Sprintf("%s  %-18s %s", a.coloured(check.Status), safe.Line(check.Name), safe.Line(check.Found))
		if check.Fix != "" && check.Status != "ok" {
			line += "\n      mend it: " + safe.Line(check.Fix)
		}
		if err := a.println(line); err != nil {
			return err
		}
	}
	return nil
}

// coloured is a status of four characters, in colour on a terminal.
func (a *App) coloured(status string) string {
	text := fmt.Sprintf("%-4s", status)
	colour := map[string]string{"ok": "32", "warn": "33", "fail": "31"}[status]
	if !a.IO.OutTTY || a.Getenv("NO_COLOR") != "" || a.Getenv("TERM") == "dumb" || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// examine runs the checks where they live: in bangerd, which need not run as a
// daemon for that.
func (a *App) examine(ctx context.Context, repair bool) ([]byte, error) {
	path, err := a.Companion("bangerd")
	if err != nil {
		return nil, err
	}
	args := []string{"doctor", "--json"}
	if repair {
		args = append(args, "--repair")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	// A failed check may show in the exit code; only a missing report is an
	// error here.
	var exited *exec.ExitError
	if out.Len() == 0 && (err == nil || errors.As(err, &exited)) {
		lines := strings.Split(strings.TrimSpace(problems.String()), "\n")
		text, hint := banger.SplitText(strings.TrimPrefix(lines[len(lines)-1], "bangerd: "))
		if hint == "" {
			hint = "banger daemon logs"
		}
		return nil, banger.Errorf(banger.CodeUnavailable, "the host cannot be checked: %s", text).WithHint("%s", hint)
	}
	if err != nil && !errors.As(err, &exited) {
		return nil, banger.Errorf(banger.CodeUnavailable, "run %s: %w", path, err)
	}
	return out.Bytes(), nil
}
