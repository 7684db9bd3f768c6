package cli

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

func TestList(t *testing.T) {
	d := newFakeDaemon(t)
	running := d.add("dev", "running")
	running.Address = "127.77.1.2"
	stopped := d.add("old", "stopped")
	for _, tc := range []struct {
		args string
		want string
	}{
		{"ps", "NAME  STATUS   IMAGE            VCPU  MEM   DISK  ADDRESS     AGE\ndev   running  debian-bookworm  2     512M  8G    127.77.1.2  1 h\n"},
		{"vm list -aq", running.Id + "\n" + stopped.Id + "\n"},
		{"vm ls -q", running.Id + "\n"},
		{"vm ps -lq", stopped.Id + "\n"},
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(strings.Fields(tc.args)...), 0, tc.want, "")
	}
	w := newWorld(t, d, "")
	w.run("ps", "-a", "--json")
	var views []vmView
	if err := json.Unmarshal(w.out.Bytes(), &views); err != nil || len(views) != 2 || views[0].Name != "dev" {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}

func TestAnEmptyListIsAnArray(t *testing.T) {
	w := newWorld(t, newFakeDaemon(t), "")
	w.expect(t, w.run("ps", "--json"), 0, "[]\n", "")
}

// Hostile text is harmless on a terminal, and unchanged in a pipe.
func TestTextOfAGuest(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "error").Reason = "died\x1b]0;x\a"
	w := newWorld(t, d, "")
	w.app.IO.OutTTY = true
	w.run("vm", "show", "dev")
	if strings.Contains(w.out.String(), "\x1b") || !strings.Contains(w.out.String(), `reason:       died\x1b]0;x\x07`) {
		t.Errorf("%q", w.out.String())
	}
}

func TestSeveralReferences(t *testing.T) {
	d := newFakeDaemon(t)
	a, b := d.add("a-vm", "running"), d.add("b-vm", "stopped")
	w := newWorld(t, d, "")
	// b twice, by name and by prefix; one that does not exist; one that runs.
	code := w.run("rm", "b-vm", "none", b.Id[:4], "a-vm")
	w.expect(t, code, 1, "b-vm\n", `banger: vm "none" does not exist`)
	if !strings.Contains(w.err.String(), `vm "a-vm" is running`) || strings.Count(strings.Join(d.calls, ","), "delete b-vm") != 1 {
		t.Errorf("stderr %q, calls %v", w.err.String(), d.calls)
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("rm", "a-vm"), 4, "", "banger vm delete -f a-vm")
	w = newWorld(t, d, "")
	w.expect(t, w.run("stop", "none", "neither"), 3, "", "neither")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "restart", "-q", "b-vm", "a-vm"), 0, b.Id+"\n"+a.Id+"\n", "")
	w = newWorld(t, d, "")
	w.run("stop", "--json", "a-vm", "none")
	var outcomes []outcome
	if err := json.Unmarshal(w.out.Bytes(), &outcomes); err != nil || outcomes[0].State != "stopped" || outcomes[1].Error.Code != banger.CodeNotFound {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}

func TestAmbiguousReference(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("one", "running").Id = "aa11"
	d.add("two", "running").Id = "aa22"
	w := newWorld(t, d, "")
	w.expect(t, w.run("stop", "aa"), 2, "", "ambiguous: aa11 (one), aa22 (two)")
}

func TestCreate(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--no-start", "--name", "dev"), 0, "dev\n", "spec: ")
	if !d.created.NoStart {
		t.Error("it was to be started")
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--vcpu", "0"), 2, "", "--vcpu 0")
	d.onCreate = nil
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--progress=json", "--name", "x"), 0, "x\n", `"stage":"boot"`)
	for line := range strings.Lines(w.err.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q is not JSON", line)
		}
	}
}

func TestOtherBuildThanTheDaemon(t *testing.T) {
	d := newFakeDaemon(t)
	d.build.Version = "v0"
	w := newWorld(t, d, "")
	w.expect(t, w.run("ps"), 0, "", "the daemon (v0+unknown) is of another build than this program (dev+unknown); try: banger daemon restart")
	if strings.Count(w.err.String(), "another build") != 1 {
		t.Errorf("stderr is %q", w.err.String())
	}
	w = newWorld(t, d, "")
	w.run("ps", "-q")
	if w.err.Len() > 0 {
		t.Errorf("-q: stderr is %q", w.err.String())
	}
}

func TestSSH(t *testing.T) {
	d := newFakeDaemon(t)
	vm := d.add("dev", "running")
	w := newWorld(t, d, "")
	w.expect(t, w.run("ssh", "dev", "--", "echo", "a b", "it's"), 3, "", "")
	line := strings.Join(w.programs[0], "\n")
	for _, want := range []string{"-F\nnone", "ForwardAgent=no", "StrictHostKeyChecking=yes", "User=root", "internal proxy %n",
		vm.Id + ".vm\n--\necho 'a b' 'it'\\''s'", "env BANGER_HOME=", "known_hosts"} {
		if !strings.Contains(line, want) {
			t.Errorf("%q is not in:\n%s", want, line)
		}
	}
}

func TestProxy(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running")
	w := newWorld(t, d, "SSH-2.0-x\r\n")
	w.expect(t, w.run("internal", "proxy", "dev.vm"), 0, "SSH-2.0-x\r\n", "")
}

func TestLogs(t *testing.T) {
	d := newFakeDaemon(t)
	vm := d.add("dev", "stopped")
	dir := layout.Instance(vm.Dir)
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(dir.Console()+".old", "first\n")
	write(dir.Console(), "second\r\n"+layout.BootMark+"2026-01-02T03:04:05Z\n\x1b[0;32mthird\x1b[0m\r\nlogin: ")
	write(dir.SupervisorLog(), "time=2026-01-02T03:00:00Z level=INFO msg=old\ntime=2026-01-02T03:04:06Z level=INFO msg=new\n")
	for _, tc := range []struct {
		args []string
		tty  bool
		want string
	}{
		{[]string{"logs", "--tail", "1", "dev"}, false, "[supervisor] time=2026-01-02T03:04:06Z level=INFO msg=new\n\x1b[0;32mthird\x1b[0m\r\nlogin: \n"},
		{[]string{"logs", "--tail", "1", "dev"}, true, "[supervisor] time=2026-01-02T03:04:06Z level=INFO msg=new\nthird\nlogin: \n"},
		{[]string{"logs", "--boot", "dev"}, true, "[supervisor] time=2026-01-02T03:04:06Z level=INFO msg=new\n" + layout.BootMark + "2026-01-02T03:04:05Z\nthird\nlogin: \n"},
		{[]string{"logs", "-f", "--tail", "0", "dev"}, true, "login: \n"},
	} {
		w := newWorld(t, d, "")
		w.app.IO.OutTTY = tc.tty
		w.expect(t, w.run(tc.args...), 0, tc.want, "")
	}
	w := newWorld(t, d, "")
	w.run("logs", "dev")
	if !strings.Contains(w.out.String(), "\nfirst\nsecond\r\n") {
		t.Errorf("%q", w.out.String())
	}
	w = newWorld(t, d, "")
	w.run("logs", "--json", "--tail", "1", "dev")
	var lines []logLine
	if err := json.Unmarshal(w.out.Bytes(), &lines); err != nil || len(lines) != 3 {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}

func TestWait(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("old", "stopped")
	d.add("dev", "running")
	w := newWorld(t, d, "")
	w.expect(t, w.run("vm", "wait", "old"), 0, "stopped\n", "")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "wait", "--for", "ready", "dev"), 0, "running\n", "")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "wait", "--timeout", "10ms", "dev"), 6, "", `vm "dev" is not stopped after 10ms`)
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "wait", "--for", "lunch", "dev"), 2, "", "not one of")
}

func TestImagesAndDaemon(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	w.expect(t, w.run("image", "ls"), 0, "NAME             ID            SOURCE  SIZE  KERNEL      CREATED\ndebian-bookworm  abababababab  recipe  300M  debian-6.1  -\n", "")
	w = newWorld(t, d, "")
	w.expect(t, w.run("image", "list", "--available", "-q"), 0, "debian-bookworm\ndebian-trixie\n", "")
	w = newWorld(t, d, "")
	w.run("daemon", "status", "--json")
	var status statusView
	if err := json.Unmarshal(w.out.Bytes(), &status); err != nil || !status.Running || status.VMsAdopted != 3 {
		t.Errorf("%s: %v", w.out.String(), err)
	}
}

func TestDoctor(t *testing.T) {
	report := `{"checks":[{"name":"kvm","status":"warn","found":"no /dev/kvm","fix":"modprobe kvm"},{"name":"qemu","status":"%s","found":"7.2"}]}`
	for status, want := range map[string]int{"ok": 0, "fail": 5} {
		w := newWorld(t, nil, "")
		opts := &doctorOptions{app: w.app, examine: func(context.Context, bool) ([]byte, error) {
			return []byte(strings.Replace(report, "%s", status, 1)), nil
		}}
		err := runDoctor(t.Context(), opts)
		w.expect(t, exitCode(err, false), want, "", "")
		if !strings.Contains(w.out.String(), "warn  kvm                no /dev/kvm\n      mend it: modprobe kvm\n"+status) {
			t.Errorf("%q", w.out.String())
		}
	}
}

// A constructor takes the run function, so that flags are tested alone.
func TestFlagsReachTheOptions(t *testing.T) {
	w := newWorld(t, nil, "")
	var got *vmDeleteOptions
	cmd := w.app.newVMDelete(func(_ context.Context, opts *vmDeleteOptions) error { got = opts; return nil })
	cmd.SetArgs([]string{"-f", "a", "b"})
	if err := cmd.Execute(); err != nil || !got.force || len(got.refs) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCompletion(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running")
	d.add("test", "running")
	d.add("old", "stopped")
	d.add("\x1b[2J", "running")
	for args, want := range map[string]string{
		"stop ":          "dev\ntest\n:4\n",
		"stop dev ":      "test\n:4\n",
		"vm start ":      "old\n:4\n",
		"vm show dev ":   ":0\n",
		"run --image ":   "debian-bookworm\ndebian-trixie\n:4\n",
		"vm wait --for ": "stopped\nrunning\npaused\nready\n:4\n",
		"completion ":    "bash\nzsh\nfish\npowershell\n:4\n",
	} {
		w := newWorld(t, d, "")
		w.expect(t, w.run(append([]string{cobra.ShellCompRequestCmd}, strings.Split(args, " ")...)...), 0, want, "")
	}
	w := newWorld(t, nil, "")
	start := time.Now()
	w.expect(t, w.run(cobra.ShellCompRequestCmd, "stop", ""), 0, ":4\n", "")
	if home, _ := w.app.Home(); time.Since(start) > 0 {
		if _, err := os.Stat(home.State); err == nil {
			t.Error("completion made the state directory")
		}
	}
}

// Every command has an example, a short text, and --help that works.
func TestEveryCommandHelps(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() != "help" && (cmd.Example == "" || cmd.Short == "") {
			t.Errorf("%s has no example or no text", cmd.CommandPath())
		}
		w := newWorld(t, nil, "")
		path := append(strings.Fields(cmd.CommandPath())[1:], "--help")
		if code := w.run(path...); code != 0 || w.out.Len() == 0 || w.err.Len() > 0 {
			t.Errorf("%v: code %d, stderr %q", path, code, w.err.String())
		}
		for _, child := range cmd.Commands() {
			walk(child)
		}
	}
	walk(newWorld(t, nil, "").app.root())
}

func TestHelpShowsResolvedDefaults(t *testing.T) {
	d := newFakeDaemon(t)
	if err := os.MkdirAll(d.home.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(d.home.ConfigFile(), []byte("[vm_defaults]\nvcpu = 3\nmemory = \"3G\"\nnat = false\n"), 0o600)
	w := newWorld(t, d, "")
	w.run("vm", "create", "--help")
	for _, want := range []string{"virtual CPUs (default 3)", "(default 3072 MiB)", "nothing leaves it (default false)", "(default debian-bookworm)"} {
		if !strings.Contains(w.out.String(), want) {
			t.Errorf("%q is not in the help:\n%s", want, w.out.String())
		}
	}
	os.WriteFile(d.home.ConfigFile(), []byte("acell = \"kvm\"\n"), 0o600)
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "create"), 2, "", `unknown key "acell"; try: accel`)
}
