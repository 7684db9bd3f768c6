package main

import "context"

// quick is how many times more often a command is measured that takes
// milliseconds.
const quick = 5

// version measures the command that does nothing but start.
func (b *bench) version(ctx context.Context) ([]row, error) {
	return b.command(ctx, "banger version", 15, "version")
}

// list measures one question to the daemon.
func (b *bench) list(ctx context.Context) ([]row, error) {
	return b.command(ctx, "banger vm list, daemon up", 25, "vm", "list")
}

// exec measures one command in a running VM.
func (b *bench) exec(ctx context.Context) ([]row, error) {
	return b.command(ctx, "exec of true in a running VM", 40, "vm", "exec", b.vm.Name, "--", "true")
}

// command measures a whole command. The first run is not counted: the cost of
// what is translated and read once belongs to the VM's start.
func (b *bench) command(ctx context.Context, name string, most float64, args ...string) ([]row, error) {
	r := row{Name: name, Unit: "ms", Limit: most}
	return only(r.measured(ctx, quick*b.n, b.home.timed(args...)))
}
