package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/cli/safe"
	"github.com/banger-dev/banger/internal/treetar"
)

// vmCpOptions are the flags of vm cp.
type vmCpOptions struct {
	app *App
	ref string
	// into says that host is copied to guest, and not the other way.
	into bool
	// host is a path, or "-" for a tar stream; guest is a path in the VM.
	host, guest string
	user        string
	owners      bool
}

// stdStream is the path that stands for stdin or stdout.
const stdStream = "-"

func (a *App) newVMCp(run func(context.Context, *vmCpOptions) error) *cobra.Command {
	opts := &vmCpOptions{app: a}
	if run == nil {
		run = runVMCp
	}
	cmd := &cobra.Command{
		Use: "cp SRC DST", Short: "Copy files and trees into a VM, or out of one", Args: exactly(2, "SRC or DST"),
		Long: "One of SRC and DST is NAME:PATH, a path in a running VM; relative ones begin at the\n" +
			"user's home. The other is a path here (with a colon in its first word: ./a:b), or -\n" +
			"for a tar stream on stdin or stdout.\n\n" +
			"As with cp -r: a copy goes into DST if that is a directory, else it becomes DST.\n" +
			"SRC/. means the contents of a directory. Modes, times, links and holes are kept; what\n" +
			"arrives belongs to --user in a VM, or to you. Devices, sockets and pipes are left out.\n" +
			"A VM cannot make a copy touch anything outside of DST.",
		Example: examples("banger cp config.toml dev:", "banger cp dev:/var/log/syslog .", "banger cp src/. dev:project",
			"banger cp -a - dev:/srv < backup.tar", "banger cp dev:/etc - | tar t"),
		ValidArgsFunction: a.completeCp,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.take(cmd, args[0], args[1]); err != nil {
				return err
			}
			return run(cmd.Context(), opts)
		},
	}
	cmd.Flags().StringVarP(&opts.user, "user", "u", "", "read or write in the VM as this user, by name or number, user:group (default root)")
	cmd.Flags().BoolVarP(&opts.owners, "archive", "a", false, "into a VM: keep the owners, by number")
	return cmd
}

// completeCp completes names of VMs, with the colon, and else files.
func (a *App) completeCp(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if len(args) == 1 {
		if _, _, ok := splitGuestPath(args[0]); ok {
			return nil, cobra.ShellCompDirectiveDefault
		}
	}
	names, _ := a.completeVMs(running)(cmd, nil, toComplete)
	for i := range names {
		names[i] += ":"
	}
	return names, cobra.ShellCompDirectiveNoSpace
}

// splitGuestPath divides NAME:PATH; a slash before the colon makes it a path here.
func splitGuestPath(arg string) (ref, path string, ok bool) {
	ref, path, ok = strings.Cut(arg, ":")
	if !ok || ref == "" || strings.Contains(ref, "/") {
		return "", "", false
	}
	return ref, path, true
}

// take reads the two arguments.
func (o *vmCpOptions) take(cmd *cobra.Command, src, dst string) error {
	fromRef, fromPath, from := splitGuestPath(src)
	toRef, toPath, to := splitGuestPath(dst)
	a := o.app
	switch {
	case from && to:
		return usagef(cmd, "both %q and %q are in VMs: copy here first, or use a stream: banger cp %s - | banger cp - %s", src, dst, src, dst)
	case !from && !to:
		return usagef(cmd, "neither %q nor %q is NAME:PATH, a path in a VM", src, dst)
	case src == "" || dst == "":
		return usagef(cmd, "a path is empty")
	case strings.ContainsRune(src+dst, 0):
		return usagef(cmd, "a path has a NUL byte in it")
	case to:
		o.into, o.ref, o.guest, o.host = true, toRef, toPath, src
	default:
		o.ref, o.guest, o.host = fromRef, fromPath, dst
	}
	switch {
	case o.owners && !o.into:
		return usagef(cmd, "-a keeps owners in a VM, and nothing is copied into one")
	case o.host != stdStream:
	case o.into && a.IO.InTTY:
		return usagef(cmd, "a tar stream is wanted on stdin, which is a terminal")
	case !o.into && a.IO.OutTTY:
		return usagef(cmd, "a tar stream would go to a terminal")
	case !o.into && a.json:
		return usagef(cmd, "--json and a tar stream cannot both go to stdout")
	}
	return nil
}

// copyView is a finished copy in JSON.
type copyView struct {
	VM        string   `json:"vm"`
	VMID      string   `json:"vm_id"`
	Entries   int64    `json:"entries"`
	Bytes     int64    `json:"bytes"`
	LeftOut   int64    `json:"left_out"`
	LeftNotes []string `json:"left_out_notes"`
}

func runVMCp(ctx context.Context, opts *vmCpOptions) error {
	a := opts.app
	c, err := a.Client()
	if err != nil {
		return err
	}
	link, err := a.link(ctx, c, opts.ref)
	if err != nil {
		return err
	}
	reporter, err := a.reporter("")
	if err != nil {
		return err
	}
	t := &transfer{opts: opts, vm: link.Vm, dial: c.Dialer(link.Vm.Id, link.LinkSocket, stream.PortExec)}
	t.tell = func(sum treetar.Summary) {
		reporter.Update(banger.Progress{Stage: "copying", Detail: fmt.Sprintf("%d entries", sum.Entries), Done: sum.Bytes})
	}
	t.tell(treetar.Summary{})
	if opts.into {
		err = t.send(ctx)
	} else {
		err = t.receive(ctx)
	}
	reporter.Close()
	if err != nil {
		return err
	}
	return opts.report(link.Vm, t.sum)
}

// report says what was copied: on stderr, because stdout may be the copy.
func (o *vmCpOptions) report(vm *bangerv1.VM, sum treetar.Summary) error {
	a := o.app
	if a.json {
		return a.printJSON(copyView{VM: vm.Name, VMID: vm.Id, Entries: sum.Entries, Bytes: sum.Bytes,
			LeftOut: sum.Skipped, LeftNotes: append([]string{}, sum.Notes...)})
	}
	for _, note := range sum.Notes {
		fmt.Fprintf(a.IO.Err, "left out: %s\n", safe.Line(note))
	}
	if more := sum.Skipped - int64(len(sum.Notes)); more > 0 {
		fmt.Fprintf(a.IO.Err, "left out: %d more\n", more)
	}
	if !a.quiet && o.host != stdStream {
		noun := "entries"
		if sum.Entries == 1 {
			noun = "entry"
		}
		fmt.Fprintf(a.IO.Err, "copied: %d %s, %s\n", sum.Entries, noun, banger.FormatSize(sum.Bytes))
	}
	return nil
}
