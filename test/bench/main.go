package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// options are the flags.
type options struct {
	n     int
	out   string
	only  []string
	image bool
	scale bool
	bin   string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.n, "n", 10, "samples of each job; of quick commands five times as many, of slow ones a third")
	flags.StringVar(&o.out, "out", "", "directory for "+reportName+".json, with every sample, .md and .svg")
	flags.StringVar(&only, "only", "", "jobs to run, separated by commas: "+strings.Join(names(jobs()), ", "))
	flags.BoolVar(&o.image, "image", false, "build the default image too, which takes minutes")
	flags.BoolVar(&o.scale, "scale", false, "measure beside up to 100 VMs and 50 templates too, which takes minutes and memory")
	flags.StringVar(&o.bin, "bin", "bin", "directory of the binaries")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, name := range o.only {
		if !slices.Contains(names(jobs()), name) {
			return o, fmt.Errorf("there is no job %q: %s", name, strings.Join(names(jobs()), ", "))
		}
	}
	if o.n < 1 || flags.NArg() > 0 {
		return o, errors.New("-n is at least 1, and there are no arguments")
	}
	var err error
	o.bin, err = filepath.Abs(o.bin)
	return o, err
}

// job measures one thing, or several at once. With an error it returns what it
// has measured before.
type job struct {
	name string
	run  func(*bench, context.Context) ([]row, error)
	// flag, if not nil, tells whether it runs when no job is named.
	flag func(options) bool
}

// jobs in the order in which they run: memory and idleness after the traffic.
func jobs() []job {
	scale := func(o options) bool { return o.scale }
	return []job{
		{"version", (*bench).version, nil},
		{"list", (*bench).list, nil},
		{"create", (*bench).create, nil},
		{"run", (*bench).runs, nil},
		{"exec", (*bench).exec, nil},
		{"fork", (*bench).forks, nil},
		{"freeze", (*bench).freezes, nil},
		{"memory", (*bench).memory, nil},
		{"pipes", (*bench).pipes, nil},
		{"tcp", (*bench).tcp, nil},
		{"server", (*bench).server, nil},
		{"compile", (*bench).compile, nil},
		{"idle", (*bench).idle, nil},
		{"scale", (*bench).scales, scale},
		{"image", (*bench).image, func(o options) bool { return o.image }},
	}
}

func names(jobs []job) []string {
	var all []string
	for _, j := range jobs {
		all = append(all, j.name)
	}
	return all
}

// wanted reports whether a job runs.
func (o options) wanted(j job) bool {
	if len(o.only) > 0 {
		return slices.Contains(o.only, j.name)
	}
	return j.flag == nil || j.flag(o)
}

// longest bounds one job: there to end what hangs.
const longest = time.Hour

// bench is one run.
type bench struct {
	options
	home *home
	// vm is a VM that runs all the time.
	vm vm
	// mostSpares is how many spares the daemon keeps if it is let: 0 if none.
	mostSpares int
	stderr     io.Writer
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.stderr, format+"\n", args...) }

func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := measure(ctx, &bench{options: o, stderr: stderr}, stdout); err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// prepare makes the VM that runs all the time.
func (b *bench) prepare(ctx context.Context) (err error) {
	b.say("making a VM (the first one ever builds its image, which takes minutes)")
	if b.vm, err = b.home.create(ctx, "bench"); err != nil {
		return err
	}
	if b.mostSpares, err = b.spares(ctx); err != nil || b.mostSpares == 0 {
		return err
	}
	return b.keepSpares(false)
}

// measure runs the jobs and reports what they measured, also when some failed.
func measure(ctx context.Context, b *bench, stdout io.Writer) (err error) {
	if b.home, err = newHome(b.bin); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.home.close(ctx)) }()
	if err := b.prepare(ctx); err != nil {
		return err
	}
	r, err := describe(ctx, b)
	if err != nil {
		return err
	}
	failed := b.measureAll(ctx, r)
	failed = append(failed, ctx.Err(), r.print(stdout))
	if b.out != "" {
		failed = append(failed, r.save(b.out))
	}
	return errors.Join(failed...)
}

// measureAll runs the jobs that are wanted, one after the other, into r.
func (b *bench) measureAll(ctx context.Context, r *report) (failed []error) {
	for _, j := range jobs() {
		if !b.wanted(j) || ctx.Err() != nil {
			continue
		}
		b.say("%s", j.name)
		start := time.Now()
		bounded, cancel := context.WithTimeout(ctx, longest)
		rows, err := j.run(b, bounded)
		cancel()
		r.Rows = append(r.Rows, rows...)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", j.name, err))
			continue
		}
		b.say("%s: %.1f s", j.name, time.Since(start).Seconds())
	}
	return failed
}
