package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/fake"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/unixsock"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// limit is the bound on every wait of these tests.
const limit = 30 * time.Second

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == fake.Command:
		fmt.Fprintln(os.Stderr, fake.Main(chosenServices))
		os.Exit(1)
	case len(os.Args) >= 3 && os.Args[1] == "supervise":
		os.Exit(supervise(layout.Instance(os.Args[2]), os.Args[3:]...))
	}
	os.Exit(m.Run())
}

// supervise is the supervisor under test, in a process of its own.
func supervise(dir layout.Instance, how ...string) int {
	lock, err := lockfile.Try(dir.SupervisorLock())
	if err != nil || lock == nil {
		return 4
	}
	defer lock.Release()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o := Options{Adopt: slices.Contains(how, "--adopt"), Drivers: fakeDrivers(log), Log: log}
	if slices.Contains(how, "--spare") {
		if o.Owner, err = ownerOf(syscall.Stdin); err != nil {
			return 5
		}
	}
	if err := Run(dir, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func fakeDrivers(log *slog.Logger) map[string]driver.Driver {
	return map[string]driver.Driver{"fake": fake.New(fake.Options{Log: log})}
}

// instance makes an instance directory with a spec in it.
func instance(t *testing.T) layout.Instance {
	t.Helper()
	dir := layout.Instance(t.TempDir())
	boot, err := proto.Marshal(&agentv1.Boot{Hostname: "test"})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := protojson.Marshal(&vmv1.Spec{Id: "test", Name: "test", Vcpu: 1, MemoryMib: 64, Driver: "fake", Accel: "tcg", Boot: boot})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Spec(), spec, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// launch starts a supervisor and returns its process; it is ended with the test.
func launch(t *testing.T, dir layout.Instance, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"supervise", dir.Dir()}, args...)...)
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endVMM(dir); cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// endVMM kills what a failed test left.
func endVMM(dir layout.Instance) {
	if h, err := loadHandle(dir); err == nil && h.PID > 1 {
		syscall.Kill(h.PID, syscall.SIGKILL)
	}
}

func client(dir layout.Instance) vmv1connect.SupervisorClient {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, dir.Socket())
	}}
	return vmv1connect.NewSupervisorClient(&http.Client{Transport: transport}, "http://vm")
}

// await follows the supervisor until ok holds.
func await(t *testing.T, dir layout.Instance, ok func(*vmv1.StatusResponse) bool) *vmv1.StatusResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for ctx.Err() == nil {
		stream, err := client(dir).Watch(ctx, connect.NewRequest(&vmv1.WatchRequest{}))
		if err != nil {
			continue // not listening yet
		}
		for stream.Receive() {
			if ok(stream.Msg()) {
				stream.Close()
				return proto.CloneOf(stream.Msg())
			}
		}
	}
	t.Fatal("the supervisor never got there")
	return nil
}

func ready(r *vmv1.StatusResponse) bool { return r.State == stateRunning && r.Ready == "system" }

// dial connects to a guest port through link.sock.
func dial(t *testing.T, dir layout.Instance, request string) (net.Conn, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := unixsock.Dial(ctx, dir.Link())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(limit))
	fmt.Fprintln(conn, request)
	line, err := bufio.NewReader(io.LimitReader(conn, 200)).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %q, %v", request, line, err)
	}
	return conn, strings.TrimSpace(line)
}

func echo(t *testing.T, dir layout.Instance) {
	t.Helper()
	conn, answer := dial(t, dir, "CONNECT 1025")
	if answer != "OK" {
		t.Fatalf("answer %q", answer)
	}
	io.WriteString(conn, "hello")
	conn.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Fatalf("echo: %q, %v", got, err)
	}
}

func identity(t *testing.T, dir layout.Instance) int {
	t.Helper()
	h, err := loadHandle(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h.PID
}

func exitOf(t *testing.T, dir layout.Instance) exitRecord {
	t.Helper()
	var e exitRecord
	data, err := os.ReadFile(dir.Exit())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRunAndStop(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	status := await(t, dir, ready)
	if status.FailedUnits[0] != "a.service" || status.VmmPid == 0 || status.Driver != "fake" {
		t.Errorf("status %v", status)
	}
	echo(t, dir)
	stop, err := client(dir).Stop(t.Context(), connect.NewRequest(&vmv1.StopRequest{}))
	if err != nil || !stop.Msg.Clean {
		t.Errorf("stop: %v, %v", stop, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the supervisor ended with %v", err)
	}
	if e := exitOf(t, dir); e.Failed || !e.Clean {
		t.Errorf("exit %+v", e)
	}
	for _, path := range []string{dir.Socket(), dir.Link(), dir.VMM(), dir.GuestCtl(), dir.QMP(), dir.Booted()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	console, err := os.ReadFile(dir.Console())
	if err != nil || !strings.HasPrefix(string(console), layout.BootMark) || !strings.Contains(string(console), "fake guest: up") {
		t.Errorf("console %q, %v", console, err)
	}
}

func TestSuccessorTakesOver(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	vmm := identity(t, dir)
	open, _ := dial(t, dir, "CONNECT 1025")
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := io.ReadAll(open); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("an open connection ended with %v", err)
	}
	next := launch(t, dir, "--adopt")
	if status := await(t, dir, ready); !status.Successor || int(status.VmmPid) != vmm {
		t.Errorf("status %v, VMM was %d", status, vmm)
	}
	echo(t, dir)
	if code := supervise(dir, "--adopt"); code != 4 {
		t.Errorf("a second supervisor ended with %d", code)
	}
	if _, err := client(dir).Kill(t.Context(), connect.NewRequest(&vmv1.KillRequest{})); err != nil {
		t.Errorf("kill: %v", err)
	}
	next.Wait()
	if e := exitOf(t, dir); e.Failed || e.Clean {
		t.Errorf("exit %+v", e)
	}
}

func TestVMMDies(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	syscall.Kill(identity(t, dir), syscall.SIGKILL)
	cmd.Wait()
	if e := exitOf(t, dir); !e.Failed || !strings.Contains(e.Reason, "9") && !strings.Contains(e.Reason, "kill") {
		t.Errorf("exit %+v", e)
	}
}

func TestBothDied(t *testing.T) {
	dir := instance(t)
	cmd := launch(t, dir)
	await(t, dir, ready)
	vmm := identity(t, dir)
	cmd.Process.Kill()
	cmd.Wait()
	syscall.Kill(vmm, syscall.SIGKILL)
	launch(t, dir, "--adopt").Wait()
	if e := exitOf(t, dir); !e.Failed || e.Reason == "" {
		t.Errorf("exit %+v", e)
	}
}

// TestEarlierEndIsKept: a crash after exit.json was written, before the handle
// was removed, is an end and keeps its words.
func TestEarlierEndIsKept(t *testing.T) {
	dir := instance(t)
	want := exitRecord{Reason: "guest powered off", Clean: true, Time: time.Now().UTC().Truncate(time.Second)}
	if err := saveExit(dir, want); err != nil {
		t.Fatal(err)
	}
	if err := saveHandle(dir, driver.Handle{Driver: "fake", PID: 1 << 22, BootID: "none", Private: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	launch(t, dir, "--adopt").Wait()
	got := exitOf(t, dir)
	got.Time = want.Time
	if got != want {
		t.Errorf("exit %+v, want %+v", got, want)
	}
}

func TestBadRequests(t *testing.T) {
	dir := instance(t)
	launch(t, dir)
	await(t, dir, ready)
	for _, request := range []string{"GET / HTTP/1.1", "CONNECT", "CONNECT 22", "CONNECT -1", "CONNECT 99999999999", strings.Repeat("x", 100)} {
		if _, answer := dial(t, dir, request); !strings.HasPrefix(answer, "ERR ") {
			t.Errorf("%q: answer %q", request, answer)
		}
	}
	echo(t, dir)
}

func TestBadSpec(t *testing.T) {
	for name, spec := range map[string]string{
		"unknown field":  `{"id":"x","surprise":true}`,
		"unknown driver": `{"id":"x","driver":"none"}`,
		"no JSON":        `spec`,
	} {
		dir := layout.Instance(t.TempDir())
		if err := os.WriteFile(dir.Spec(), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		launch(t, dir).Wait()
		if e := exitOf(t, dir); !e.Failed || e.Reason == "" {
			t.Errorf("%s: exit %+v", name, e)
		}
	}
}
