package daemon_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/unixsock"
)

func TestDaemonIsKilledAndComesBack(t *testing.T) {
	h := newHost(t).start()
	before := []*bangerv1.VM{h.run("one"), h.run("two")}
	h.kill()
	for _, vm := range before {
		if _, err := process.StartTime(int(vm.VmmPid)); err != nil {
			t.Fatalf("the VMM of %s went with the daemon", vm.Name)
		}
	}
	h.start()
	for _, vm := range before {
		after := h.mustGet(vm.Name)
		if after.State != "running" || after.Ready != "system" || after.VmmPid != vm.VmmPid || after.SupervisorPid != vm.SupervisorPid {
			t.Errorf("before %v\nafter  %v", vm, after)
		}
	}
	status, err := h.client.Status(t.Context(), connect.NewRequest(&bangerv1.StatusRequest{}))
	if err != nil || status.Msg.VmsAdopted != 2 || status.Msg.Socket != h.home.DaemonSocket() {
		t.Errorf("%v, %v", status, err)
	}
	h.consistent()
}

func TestShutdownStopsNoVM(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	hang := make(chan created, 1)
	go func() { hang <- h.create(context.Background(), &bangerv1.CreateVMRequest{Name: "hang"}) }()
	h.eventually("a create is under way", func() bool { _, err := h.get("hang"); return err == nil })
	if _, err := h.client.Shutdown(t.Context(), connect.NewRequest(&bangerv1.ShutdownRequest{})); err != nil {
		t.Fatal(err)
	}
	if err := h.awaitEnd(); err != nil {
		t.Fatal(err)
	}
	wantError(t, (<-hang).err, banger.CodeUnavailable, "stopped meanwhile")
	h.start()
	if after := h.mustGet("dev"); after.VmmPid != vm.VmmPid || after.State != "running" {
		t.Errorf("%v", after)
	}
	if len(h.list()) != 1 {
		t.Errorf("the create that was under way is not undone: %v", h.list())
	}
	h.consistent()
}

func TestSupervisorCrash(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	for range 3 {
		now := h.mustGet("dev")
		if err := syscall.Kill(int(now.SupervisorPid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		h.eventually("a successor is there", func() bool {
			after := h.mustGet("dev")
			if after.State != "running" {
				t.Fatalf("state %s in between", after.State)
			}
			return after.VmmPid != 0 && after.SupervisorPid != 0 && after.SupervisorPid != now.SupervisorPid
		})
	}
	_, err := h.client.LinkVM(t.Context(), connect.NewRequest(&bangerv1.LinkVMRequest{Ref: "dev", TimeoutMs: 2000}))
	if err != nil {
		t.Error(err)
	}
	if after := h.mustGet("dev"); after.VmmPid != vm.VmmPid {
		t.Errorf("another VMM: %v", after)
	}
	// While no daemon looks.
	pid := h.mustGet("dev").SupervisorPid
	h.kill()
	syscall.Kill(int(pid), syscall.SIGKILL)
	h.start()
	h.eventually("it is adopted", func() bool {
		after := h.mustGet("dev")
		return after.SupervisorPid != 0 && after.VmmPid != 0
	})
	if after := h.mustGet("dev"); after.VmmPid != vm.VmmPid || after.State != "running" || after.Ready != "system" {
		t.Errorf("%v", after)
	}
	h.consistent()
}

func TestSupervisorThatAlwaysCrashesIsGivenUp(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	h.eventually("it is given up", func() bool {
		now := h.mustGet("dev")
		if now.SupervisorPid != 0 {
			syscall.Kill(int(now.SupervisorPid), syscall.SIGKILL)
		}
		return now.State == "error"
	})
	if now := h.mustGet("dev"); !strings.Contains(now.Reason, "crashed 6 times in a minute") {
		t.Errorf("%v", now)
	}
	if _, err := process.StartTime(int(vm.VmmPid)); err == nil {
		t.Error("its VMM lives on")
	}
	h.consistent()
}

func TestVMMKilled(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	syscall.Kill(int(vm.VmmPid), syscall.SIGKILL)
	h.eventually("it is in error", func() bool { return h.mustGet("dev").State == "error" })
	if vm := h.mustGet("dev"); vm.Reason != "killed by signal 9" {
		t.Errorf("%v", vm)
	}
	if c := h.startVM("dev"); c.err != nil || c.vm.Reason != "" {
		t.Errorf("start after an error: %+v", c)
	}
}

// both ends the supervisor first, so that it can say nothing.
func both(vm *bangerv1.VM) {
	syscall.Kill(int(vm.SupervisorPid), syscall.SIGKILL)
	syscall.Kill(int(vm.VmmPid), syscall.SIGKILL)
}

func TestEverythingKilled(t *testing.T) {
	h := newHost(t).start()
	outside, reboot := h.run("outside"), h.run("reboot")
	h.kill()
	both(outside)
	both(reboot)
	// The host's restart is a boot id that is not ours.
	path := h.home.Instance(reboot.Id).VMM()
	var handle map[string]any
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &handle) != nil {
		t.Fatal(err)
	}
	handle["boot_id"] = "an earlier one"
	data, _ = json.Marshal(handle)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	if vm := h.mustGet("outside"); vm.State != "error" || !strings.Contains(vm.Reason, "ended from outside") {
		t.Errorf("%v", vm)
	}
	if vm := h.mustGet("reboot"); vm.State != "stopped" || vm.Reason != "the host was restarted" {
		t.Errorf("%v", vm)
	}
	for _, name := range []string{"outside", "reboot"} {
		if c := h.startVM(name); c.err != nil {
			t.Error(c.err)
		}
	}
	h.consistent()
}

func TestDirectoryGone(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	h.kill()
	os.RemoveAll(vm.Dir)
	h.start()
	if now := h.mustGet("dev"); now.State != "error" || !strings.Contains(now.Reason, "is gone") {
		t.Errorf("%v", now)
	}
	wantError(t, h.startVM("dev").err, banger.CodeFailed, "not whole", "banger vm delete dev")
	if err := h.deleteVM("dev", false); err != nil {
		t.Error(err)
	}
	h.nothingLeft()
}

func TestLeftoversAreRemoved(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	h.kill()
	// A VM that nobody knows: its record and its disks are gone, it runs on.
	os.Remove(h.home.Store())
	os.Remove(h.home.Store() + "-wal")
	os.Remove(h.home.Store() + "-shm")
	os.Remove(h.home.Instance(vm.Id).Work())
	os.MkdirAll(filepath.Join(h.home.VMs(), layout.TempPrefix+banger.NewID(), "x"), 0o700)
	os.MkdirAll(filepath.Join(h.home.VMs(), "junk"), 0o700)
	h.start()
	h.nothingLeft()
}

func TestDamagedStore(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	h.kill()
	bad := []byte(strings.Repeat("no database at all ", 500))
	os.WriteFile(h.home.Store(), bad, 0o600)
	os.Remove(h.home.Store() + "-wal")
	os.Remove(h.home.Store() + "-shm")
	h.launch()
	if err := h.awaitEnd(); err == nil || err.(*exec.ExitError).ExitCode() != 5 {
		t.Fatalf("%v", err)
	}
	if words := h.log.String(); !strings.Contains(words, "store.db is damaged") || !strings.Contains(words, "try: mv ") {
		t.Errorf("%s", words)
	}
	if now, _ := os.ReadFile(h.home.Store()); string(now) != string(bad) {
		t.Error("the damaged store was changed")
	}
	// As the hint says: and nothing is lost.
	os.Rename(h.home.Store(), h.home.Store()+".bad")
	h.start()
	after := h.mustGet("dev")
	if after.Id != vm.Id || after.State != "running" || after.VmmPid != vm.VmmPid || after.Image != vm.Image || after.ImageDigest != vm.ImageDigest ||
		after.Kernel != vm.Kernel || after.MemoryMib != vm.MemoryMib || after.DiskBytes != vm.DiskBytes {
		t.Errorf("before %v\nafter  %v", vm, after)
	}
	h.consistent()
}

func TestOneDaemonPerState(t *testing.T) {
	h := newHost(t)
	cmds := make([]*exec.Cmd, 10)
	logs := make([]syncBuffer, len(cmds))
	var wg sync.WaitGroup
	codes := make(chan int, len(cmds))
	for i := range cmds {
		cmds[i] = exec.Command(filepath.Join(bin, "bangerd"))
		cmds[i].Env = append(os.Environ(), layout.HomeVar+"="+h.root)
		cmds[i].Stderr = &logs[i]
		if err := cmds[i].Start(); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { cmds[i].Wait(); codes <- cmds[i].ProcessState.ExitCode() })
	}
	for range len(cmds) - 1 {
		if code := <-codes; code != 4 {
			t.Errorf("exit code %d", code)
		}
	}
	h.eventually("one serves", func() bool {
		_, err := h.client.Status(t.Context(), connect.NewRequest(&bangerv1.StatusRequest{}))
		return err == nil
	})
	for _, cmd := range cmds {
		cmd.Process.Signal(syscall.SIGTERM)
	}
	if code := <-codes; code != 0 {
		t.Errorf("the one that served ended with %d", code)
	}
	wg.Wait()
}

func TestForeignStateDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Log("only root can make a directory of somebody else: an open one must do")
	}
	h := newHost(t)
	os.MkdirAll(h.home.State, 0o755)
	os.Chmod(h.home.State, 0o755)
	if os.Getuid() != 0 {
		h.start()
		if info, _ := os.Stat(h.home.State); info.Mode().Perm() != 0o700 {
			t.Errorf("mode %v", info.Mode())
		}
		return
	}
	if err := os.Chown(h.home.State, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	h.launch()
	if err := h.awaitEnd(); err == nil || err.(*exec.ExitError).ExitCode() != 5 {
		t.Errorf("%v", err)
	}
	if words := h.log.String(); !strings.Contains(words, "belongs to uid 12345") || !strings.Contains(words, "try: ") {
		t.Errorf("%s", words)
	}
}

// The socket speaks JSON over HTTP/1.1, which is curl's, and HTTP/2 without TLS.
func TestWire(t *testing.T) {
	h := newHost(t).start()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, h.home.DaemonSocket())
	}
	plain := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	response, err := plain.Post("http://x/banger.v1.Banger/GetVM", "application/json", strings.NewReader(`{"ref":"nobody"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != 404 || !strings.Contains(string(body), `"code":"not_found"`) || !strings.Contains(string(body), "banger.v1.ErrorDetail") {
		t.Errorf("%d %s", response.StatusCode, body)
	}
	h2 := &http.Transport{DialContext: dial, Protocols: new(http.Protocols)}
	h2.Protocols.SetUnencryptedHTTP2(true)
	defer h2.CloseIdleConnections()
	client := bangerv1connect.NewBangerClient(&http.Client{Transport: h2}, "http://x", connect.WithGRPC())
	if _, err := client.GetVM(t.Context(), connect.NewRequest(&bangerv1.GetVMRequest{Ref: "nobody"})); banger.CodeOf(apierr.FromConnect(err)) != banger.CodeNotFound {
		t.Errorf("gRPC: %v", err)
	}
	if info, _ := os.Stat(h.home.DaemonSocket()); info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v", info.Mode())
	}
}

func TestCyclesLeakNothing(t *testing.T) {
	h := newHost(t).start()
	before := descriptors(t, h)
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range 10 {
				name := fmt.Sprintf("vm-%d-%d", worker, i)
				if c := h.create(context.Background(), &bangerv1.CreateVMRequest{Name: name}); c.err != nil {
					t.Error(c.err)
				}
				if err := h.deleteVM(name, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	h.nothingLeft()
	h.eventually("no descriptor is leaked", func() bool { return descriptors(t, h) <= before+2 })
}

// descriptors are the open files of the daemon, connections of clients apart.
func descriptors(t *testing.T, h *host) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", h.daemon.Process.Pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && !strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}
