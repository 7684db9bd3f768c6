package cli

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/stream"
)

func TestRunCommand(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = echoGuest
	w := newWorld(t, d, "")
	code := w.run("run", "--name", "dev", "--vcpu", "2", "--memory", "512", "--disk-size", "8G", "--nat=false", "--", "echo", "a b")
	w.expect(t, code, 7, "echo a b\n", "spec: 2 vcpu · 512 MiB · 8G disk · qemu/tcg\n")
	if !strings.Contains(w.err.String(), "boot     1.5 s\n") || !strings.HasSuffix(w.err.String(), "err\n") {
		t.Errorf("stderr is %q", w.err.String())
	}
	req := d.created
	if req.Vcpu != 2 || req.MemoryMib != 512 || req.DiskBytes != 8*banger.GiB || req.Nat == nil || *req.Nat || req.Ephemeral {
		t.Errorf("request is %v", req)
	}
	if len(d.calls) > 0 {
		t.Errorf("calls: %v", d.calls)
	}
}

func TestRunRemoves(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = func(start *agentv1.ExecStart, frames *stream.Reader, conn net.Conn) {
		<-d.leased
		echoGuest(start, frames, conn)
	}
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "run", "--rm", "-q", "--", "x"), 7, "x\n", "err\n")
	if !d.did("delete quiet-otter") || !d.created.Ephemeral {
		t.Errorf("calls %v", d.calls)
	}
	if w.err.String() != "err\n" {
		t.Errorf("stderr is %q", w.err.String())
	}
}

func TestRunNeverReady(t *testing.T) {
	d := newFakeDaemon(t)
	d.onCreate = func(_ context.Context, vm *bangerv1.VM) error {
		return &apierr.VMError{VMID: vm.Id, VMName: vm.Name, ConsoleTail: "Kernel panic\x1b[2J\nline 2\n",
			Err: banger.Errorf(banger.CodeTimeout, `vm "quiet-otter": not ready within 1s; the vm is kept`).WithHint("banger vm logs quiet-otter")}
	}
	w := newWorld(t, d, "")
	w.expect(t, w.run("run", "--rm", "--timeout", "1s", "--", "x"), 125, "", "try: banger vm logs quiet-otter\nlast lines of the console:\n  | Kernel panic\\x1b[2J\n  | line 2\n")
	if len(d.calls) > 0 {
		t.Errorf("the VM is not kept: %v", d.calls)
	}
	if d.created.TimeoutMs != 1000 {
		t.Errorf("timeout %d", d.created.TimeoutMs)
	}
}

func TestRunInterruptedBeforeTheCommand(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	d.onCreate = func(ctx context.Context, _ *bangerv1.VM) error {
		w.err.await("spec:")
		w.signal(sigint)
		<-ctx.Done()
		return ctx.Err()
	}
	w.expect(t, w.run("run", "--", "x"), 130, "", "banger: interrupted")
	if !d.did("delete quiet-otter") {
		t.Errorf("nothing was undone: %v", d.calls)
	}
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	d.onCreate = func(ctx context.Context, _ *bangerv1.VM) error {
		w.err.await("spec:")
		w.signal(sigint)
		<-ctx.Done()
		return ctx.Err()
	}
	d.onDelete = func() { // while it is being undone
		w.signal(sigint)
		if code := <-w.hard; code != 130 {
			t.Errorf("hard exit with %d", code)
		}
	}
	w.run("run", "--", "x")
	if w.restored == 0 {
		t.Error("the terminal was not restored")
	}
}

func TestSignalsGoToTheCommand(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	d.guest = func(_ *agentv1.ExecStart, frames *stream.Reader, conn net.Conn) {
		send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
		// The client takes signals as the command's from its Started on, which
		// its first end of input proves that it has seen.
		for {
			kind, payload, err := frames.Next()
			if err != nil {
				return
			}
			switch kind {
			case stream.StdinEOF:
				w.signal(syscall.SIGTERM)
			case stream.Signal:
				send(conn, stream.Exit, &agentv1.ExecExit{Code: 128 + int32(payload[1]), Signal: int32(payload[1])})
			}
		}
	}
	w.expect(t, w.run("run", "--", "x"), 128+15, "", "")
	if d.did("delete quiet-otter") {
		t.Error("the VM was deleted without --rm")
	}
}

func TestInteractiveSession(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = func(start *agentv1.ExecStart, _ *stream.Reader, conn net.Conn) {
		if !start.Tty || !start.Shell || start.Size.GetCols() != 80 || start.Env[0] != "TERM=xterm" {
			t.Errorf("start is %v", start)
		}
		send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
		send(conn, stream.Exit, &agentv1.ExecExit{})
		io.Copy(io.Discard, conn)
	}
	for _, remove := range []bool{false, true} {
		w := newWorld(t, d, "")
		w.app.IO.InTTY, w.app.IO.OutTTY = true, true
		args := []string{"run", "--name", "dev"}
		if remove {
			args = append(args, "--rm")
		}
		reminder := "vm \"dev\" is still running (stop: banger vm stop dev)\n"
		w.expect(t, w.run(args...), 0, "", "")
		if got := strings.Contains(w.err.String(), reminder); got == remove {
			t.Errorf("--rm=%v: stderr is %q", remove, w.err.String())
		}
		if w.raw || w.restored == 0 {
			t.Error("the terminal is still in raw mode")
		}
		d.vms = nil
	}
}

func TestExecExitCodes(t *testing.T) {
	for code, want := range map[string]int{"not_found": 127, "not_executable": 126, "no_cwd": 125, "internal": 125} {
		d := newFakeDaemon(t)
		d.add("dev", "running")
		d.guest = refusingGuest(code)
		w := newWorld(t, d, "")
		w.expect(t, w.run("exec", "dev", "--", "nope"), want, "", `vm "dev": `)
		if strings.Contains(w.err.String(), "\x1b") || strings.Count(w.err.String(), "\n") != 1 {
			t.Errorf("stderr is %q", w.err.String())
		}
	}
}

func TestExecRefused(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "stopped")
	for _, tc := range []struct{ ref, want string }{
		{"dev", `vm "dev" is stopped; try: banger vm start dev`},
		{"none", `vm "none" does not exist; try: banger vm list -a`},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run("vm", "exec", tc.ref, "--", "x"), 125, "", tc.want)
	}
}

func TestExecEnvironmentAndUser(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running")
	var got *agentv1.ExecStart
	d.guest = func(start *agentv1.ExecStart, frames *stream.Reader, conn net.Conn) {
		got = start
		echoGuest(start, frames, conn)
	}
	w := newWorld(t, d, "")
	w.run("exec", "-i=false", "-e", "A=1", "-e", "COPIED", "-e", "UNSET", "-w", "/tmp", "-u", "nobody", "dev", "--", "x")
	if strings.Join(got.Env, ",") != "A=1,COPIED=yes" || got.Cwd != "/tmp" || got.User != "nobody" || got.Stdin || got.Tty {
		t.Errorf("start is %v", got)
	}
}

func TestExecJSON(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running")
	d.guest = echoGuest
	w := newWorld(t, d, "")
	w.expect(t, w.run("exec", "--json", "dev", "--", "x"), 7, "", "")
	var doc commandView
	if err := json.Unmarshal(w.out.Bytes(), &doc); err != nil || doc.Stdout != "x\n" || doc.Stderr != "err\n" || doc.ExitCode != 7 || doc.VM != "dev" {
		t.Errorf("%s, %v", w.out.String(), err)
	}
}

func TestUsageIsSaidBeforeTheDaemonIsAsked(t *testing.T) {
	for _, args := range [][]string{
		{"run", "--vcpu", "0"}, {"run", "--name", "No"}, {"run", "--memory", "x"}, {"run", "--disk-size", "8"}, {"run", "stray"},
		{"run", "--"}, {"run", "--accel", "xen"}, {"run", "--timeout", "0"}, {"run", "-e", "=x"}, {"run", "--env-file", "/no/such"},
		{"run", "--json"}, {"run", "--json", "-t", "--", "x"}, {"exec"}, {"exec", "a", "b"}, {"run", "--bogus"},
	} {
		w := newWorld(t, nil, "") // has no daemon, and bangerd is "missing"
		w.expect(t, w.run(args...), 125, "", "banger: ")
		if strings.Contains(w.err.String(), "bangerd") || strings.Count(w.err.String(), "\n") > 2 {
			t.Errorf("%v: stderr is %q", args, w.err.String())
		}
	}
}

func TestPanicRestoresTheTerminal(t *testing.T) {
	d := newFakeDaemon(t)
	d.guest = echoGuest
	w := newWorld(t, d, "")
	w.app.IO.InTTY, w.app.IO.OutTTY = true, true
	w.app.IO.Raw = func() error { panic("oops") }
	w.expect(t, w.run("run", "--", "x"), 125, "", "banger: internal error: oops (")
	if w.restored == 0 || strings.Contains(w.err.String(), "goroutine") {
		t.Errorf("restored %d times, stderr %q", w.restored, w.err.String())
	}
}
