package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// freezable is a machine with a disk and its memory's file.
func freezable(t *testing.T) driver.Machine {
	t.Helper()
	m := machine(t, "/usr/bin/"+binName)
	m.Freezable = true
	path := filepath.Join(m.Dir, "disk")
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Disks = []driver.Disk{{Serial: "work", Path: path}}
	if err := makeMemory(layout.Instance(m.Dir).Memory(), m.MemoryMiB<<20); err != nil {
		t.Fatal(err)
	}
	return m
}

// What was written is read, for a machine of the same shape only.
func TestFrozenFiles(t *testing.T) {
	m := freezable(t)
	dir := layout.Instance(m.Dir)
	state := bytes.Repeat([]byte("state\n"), 1000)
	if err := writeFrozen(dir, m, programOf(t, m), state); err != nil {
		t.Fatal(err)
	}
	f, err := openFrozen(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	f.close()
	if !bytes.Equal(f.state, state) || f.memory.Name() != dir.Memory() {
		t.Errorf("%d bytes of state, memory %s", len(f.state), f.memory.Name())
	}
	for want, change := range map[string]func(*driver.Machine){
		"64 MiB of memory, not 65": func(m *driver.Machine) { m.MemoryMiB++ },
		"1 vcpus, not 2":           func(m *driver.Machine) { m.VCPU++ },
		"the disk":                 func(m *driver.Machine) { m.Disks[0].ReadOnly = true },
		"1 disks, not 0":           func(m *driver.Machine) { m.Disks = nil },
		"no such file":             func(m *driver.Machine) { m.Disks[0].Path += "x" },
	} {
		other := m
		other.Disks = []driver.Disk{m.Disks[0]}
		change(&other)
		if _, err := openFrozen(dir, other); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// A frozen guest goes on with the very QEMU, memory and disks that it had, or
// copies of those, and no others that are like them.
func TestFrozenOfAnother(t *testing.T) {
	for want, change := range map[string]func(m *driver.Machine){
		"of another QEMU":                         func(m *driver.Machine) { m.Bin = script(t, "exit 1") },
		`another disk "work"`:                     func(m *driver.Machine) { touch(t, m.Disks[0].Path) },
		`the disk "work" of 4096 bytes, not 512`:  func(m *driver.Machine) { must(t, os.Truncate(m.Disks[0].Path, 512)) },
		`the disk "work" of 4096 bytes, not 8192`: func(m *driver.Machine) { must(t, os.Truncate(m.Disks[0].Path, 8192)) },
		"its memory was changed":                  func(m *driver.Machine) { touch(t, layout.Instance(m.Dir).Memory()) },
		"no such file":                            func(m *driver.Machine) { m.Disks[0].Path += "x" },
	} {
		m := freezable(t)
		must(t, writeFrozen(layout.Instance(m.Dir), m, programOf(t, m), []byte("state")))
		f, err := openFrozen(layout.Instance(m.Dir), m)
		must(t, err)
		f.close()
		change(&m)
		if _, err := openFrozen(layout.Instance(m.Dir), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// touch makes a file one that was written at another time.
func touch(t *testing.T, path string) {
	t.Helper()
	must(t, os.Chtimes(path, time.Time{}, time.Unix(1, 1)))
}

func programOf(t *testing.T, m driver.Machine) program {
	t.Helper()
	p, err := programAt(m.Bin)
	must(t, err)
	return p
}

func TestFrozenFilesDamaged(t *testing.T) {
	m := freezable(t)
	dir := layout.Instance(m.Dir)
	if err := writeFrozen(dir, m, programOf(t, m), []byte("state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir.DeviceState(), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"empty":      "",
		"no line":    "{",
		"no JSON":    "junk\nstate",
		"other form": `{"format":99}` + "\nstate",
		"long line":  strings.Repeat(" ", maxHeader+1) + "{}\nstate",
		"no state":   fmt.Sprintf(`{"format":%d,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}`+"\n", frozenFormat),
		"no sum":     fmt.Sprintf(`{"format":%d}`+"\nstate", frozenFormat),
	} {
		if err := os.WriteFile(dir.DeviceState(), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openFrozen(dir, m)
		if banger.CodeOf(err) != banger.CodeFailed || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "image warm") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzReadState: whatever the file holds, what is returned is what its header
// promises.
func FuzzReadState(f *testing.F) {
	for _, seed := range []string{"", "{", "{}\n", fmt.Sprintf(`{"format":%d,"disks":[{}]}`+"\nstate", frozenFormat)} {
		f.Add([]byte(seed))
	}
	path := filepath.Join(f.TempDir(), "devices")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(path, data, 0o600))
		h, state, err := readState(path)
		if err != nil {
			return
		}
		sum := sha256.Sum256(state)
		if len(state) == 0 || h.Format != frozenFormat || hex.EncodeToString(sum[:]) != h.SHA256 {
			t.Errorf("%+v of %q", h, data)
		}
	})
}

// waiting is a machine for, and the open files of, a guest that QEMU waits for.
func waiting(t *testing.T, state []byte) (driver.Machine, *frozen) {
	t.Helper()
	m := freezable(t)
	memory, err := os.Open(layout.Instance(m.Dir).Memory())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { memory.Close() })
	m.Freezable, m.Readable = false, nil
	return m, &frozen{memory: memory, state: state}
}

// A state that QEMU does not take, or not all of, leaves an error and no VMM.
func TestLoadRefused(t *testing.T) {
	q := &qemu{Options{Log: discard()}}
	for name, state := range map[string][]byte{
		"junk": bytes.Repeat([]byte("junk"), 1<<20), "half a header": []byte("QEVM\x00\x00\x00\x03"),
	} {
		m, f := waiting(t, state)
		var handle driver.Handle
		vm, err := q.start(t.Context(), m, launch{frozen: f, save: func(h driver.Handle) error { handle = h; return nil }})
		if vm != nil || err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v", name, vm, err)
		}
		t.Logf("%s: %v", name, err)
		if process.Alive(handle.PID, handle.StartTime) {
			t.Errorf("%s: process %d is left", name, handle.PID)
		}
	}
}

// A VMM whose guest was never loaded is of use to nobody: adopting it ends it.
func TestAdoptUnloaded(t *testing.T) {
	q := &qemu{Options{Log: discard()}}
	m, f := waiting(t, nil)
	started, err := q.spawn(t.Context(), m, launch{bin: m.Bin, seccomp: true, frozen: f})
	if err != nil {
		t.Fatal(err)
	}
	defer started.Drop()
	handle, err := vmmproc.NewHandle(Name, started.PID)
	if err != nil {
		t.Fatal(err)
	}
	handle.Private = []byte("{}")
	if err := started.Open(); err != nil {
		t.Fatal(err)
	}
	if vm, err := q.Adopt(t.Context(), m, handle); vm != nil || !errors.Is(err, driver.ErrGone) {
		t.Errorf("adopt: %v, %v", vm, err)
	}
	if process.Alive(handle.PID, handle.StartTime) {
		t.Error("the VMM is left")
	}
}

// Without an answer to how it opens its memory, QEMU ends and says so.
func TestNoSubstitute(t *testing.T) {
	q := &qemu{Options{Log: discard()}}
	m, f := waiting(t, nil)
	f.memory.Close() // the starter has nothing to give
	vm, err := q.start(t.Context(), m, launch{frozen: f, save: func(driver.Handle) error { return nil }})
	if vm != nil || err == nil || !strings.Contains(err.Error(), layout.Instance(m.Dir).Memory()) {
		t.Errorf("%v, %v", vm, err)
	}
}

func TestMemoryArguments(t *testing.T) {
	m := machine(t, "/usr/bin/"+binName)
	for want, o := range map[string]struct {
		freezable bool
		options   options
	}{
		`"share":true}`:                               {true, options{}},
		`"mem-path":"/a,b\"c","share":false}`:         {true, options{frozen: `/a,b"c`}},
		`"id":"memory","size":67108864,"mem-path":`:   {false, options{frozen: "/frozen"}},
		"-incoming defer":                             {false, options{frozen: "/frozen"}},
		"-M memory-backend=memory":                    {true, options{}},
		"-kernel " + m.Kernel:                         {true, options{}},
		layout.Instance(m.Dir).Memory() + `","share"`: {true, options{}},
	} {
		m.Freezable = o.freezable
		args, err := arguments(m, o.options)
		if all := strings.Join(args, " "); err != nil || !strings.Contains(all, want) {
			t.Errorf("no %s in %s: %v", want, all, err)
		} else if o.options.frozen != "" && strings.Contains(all, "-kernel") {
			t.Errorf("a frozen guest needs no kernel: %s", all)
		}
	}
	if args, err := arguments(machine(t, "x"), options{}); err != nil || strings.Contains(strings.Join(args, " "), "memory-backend") {
		t.Errorf("%v, %v", args, err)
	}
	if p := policy(m, "/x"); len(p.WriteDirs) != 1 {
		t.Errorf("%+v", p)
	}
}

// The fingerprint follows the file of QEMU and the host's CPU.
func TestFingerprint(t *testing.T) {
	q := &qemu{Options{Log: discard()}}
	bin := script(t, "exit 1")
	take := func() string {
		t.Helper()
		text, err := q.Fingerprint(driver.Machine{Accel: "tcg", Bin: bin})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := take()
	if again := take(); again != first {
		t.Errorf("%s, then %s", first, again)
	}
	if err := os.Chtimes(bin, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if changed := take(); changed == first {
		t.Error("QEMU's file was changed, and nobody sees it")
	}
	if _, err := q.Fingerprint(driver.Machine{Accel: "tcg", Bin: "/no/such/qemu"}); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Error(err)
	}
}

func TestHostCPU(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cpuinfo")
	text := "processor\t: 0\nmodel name\t: One\ncpu MHz\t\t: 12.5\nflags\t\t: fpu vme\n\nprocessor\t: 1\nmodel name\t: Two\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := hostCPU(path); err != nil || strings.Join(got, "|") != "model name: One|flags: fpu vme" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := hostCPU(path + "x"); err == nil {
		t.Error("no file, no error")
	}
	if got, err := hostCPU(cpuInfo); err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// A freeze whose monitor does not do as asked fails, each time.
func TestSaveStateErrors(t *testing.T) {
	for refused, want := range map[string]string{
		"stop": "QMP stop", "query-chardev": "QMP query-chardev", "migrate-set-capabilities": "QMP migrate-set-capabilities",
		"": "getfd", // this monitor is no socket
	} {
		i := &instance{log: discard(), moved: make(chan string, 1)}
		var err error
		i.monitor, err = newQMP(t.Context(), monitor(t, func(command string, id uint64) string {
			switch command {
			case refused:
				return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`, id)
			case "query-chardev":
				return fmt.Sprintf(`{"return": [{"label": "ctl", "filename": "disconnected:x"}], "id": %d}`, id)
			}
			return fmt.Sprintf(`{"return": {}, "id": %d}`, id)
		}), i.event)
		if err != nil {
			t.Fatal(err)
		}
		i.link = guestlink.New(guestlink.Endpoints{}, discard())
		if _, err := i.saveState(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s refused: %v", refused, err)
		}
		i.monitor.close()
	}
}

// A migration ends with an event, an end of the monitor, or the caller's.
func TestMigrateEnds(t *testing.T) {
	for name, test := range map[string]struct {
		event string
		want  string
	}{
		"completed": {"completed", ""},
		"failed":    {"failed", `no "room"`},
	} {
		i := &instance{log: discard(), moved: make(chan string, 1)}
		i.monitor = open(t, monitor(t, func(command string, id uint64) string {
			if command == "query-migrate" {
				return fmt.Sprintf(`{"return": {"error-desc": "no \"room\""}, "id": %d}`, id)
			}
			return fmt.Sprintf(`{"return": {}, "id": %d}`+"\n"+`{"event": "MIGRATION", "data": {"status": "setup"}}`+"\n"+
				`{"event": "MIGRATION", "data": {"status": %q}}`, id, test.event)
		}), i.event)
		err := i.migrate(t.Context(), command{name: "migrate"})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), `no \"room\"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	i := &instance{log: discard(), moved: make(chan string, 1)}
	i.monitor = open(t, monitor(t, func(_ string, id uint64) string { return fmt.Sprintf(`{"return": {}, "id": %d}`, id) }), i.event)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancelled := errors.New("enough")
	time.AfterFunc(10*time.Millisecond, func() { cancel(cancelled) })
	if err := i.migrate(ctx, command{name: "migrate"}); !errors.Is(err, cancelled) {
		t.Error(err)
	}
	i.monitor.conn.Close()
	<-i.monitor.done
	if err := i.migrate(t.Context(), command{name: "migrate"}); err == nil {
		t.Error(err)
	}
}
