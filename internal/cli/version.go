package cli

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
)

// versionOptions are the flags of version.
type versionOptions struct{ app *App }

func (a *App) newVersion(run func(context.Context, *versionOptions) error) *cobra.Command {
	opts := &versionOptions{app: a}
	if run == nil {
		run = runVersion
	}
	return &cobra.Command{
		Use: "version", Short: "Show the build of this program", Args: none,
		Example: examples("banger version", "banger version --json"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), opts) },
	}
}

func runVersion(_ context.Context, opts *versionOptions) error {
	a, build := opts.app, banger.BuildStamp()
	if a.json {
		return a.printJSON(build)
	}
	if a.quiet {
		return a.println(build.Version)
	}
	return a.println(fmt.Sprintf("banger %s (commit %s, %s, %s %s/%s)",
		build.Version, build.Commit, build.Time, runtime.Version(), runtime.GOOS, runtime.GOARCH))
}

// compareBuilds says once, on stderr, that the daemon is of another build.
func (a *App) compareBuilds(theirs banger.Build) {
	ours := banger.BuildStamp()
	if a.quiet || ours == theirs {
		return
	}
	form, err := a.form()
	if err != nil || form == "json" || form == "silent" {
		return
	}
	fmt.Fprintf(a.IO.Err, "banger: %s\n", differ(ours, theirs))
}

// differ says how this program's build and the daemon's differ. A build by hand
// has no time, and is neither older nor newer.
func differ(ours, theirs banger.Build) string {
	_, errOurs := time.Parse(time.RFC3339, ours.Time)
	_, errTheirs := time.Parse(time.RFC3339, theirs.Time)
	switch {
	case errOurs != nil || errTheirs != nil || ours.Time == theirs.Time:
		return fmt.Sprintf("the daemon (%s) is of another build than this program (%s); try: banger daemon restart", theirs, ours)
	case ours.Time < theirs.Time:
		return fmt.Sprintf("the daemon (%s) is newer than this program (%s); try: the program that was installed with it", theirs, ours)
	}
	return fmt.Sprintf("this program (%s) is newer than the daemon (%s); try: banger daemon restart", ours, theirs)
}
