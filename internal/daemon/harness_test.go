package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/leftover"
	"github.com/banger-dev/banger/internal/process"
	"github.com/banger-dev/banger/internal/store"
	"github.com/banger-dev/banger/internal/unixsock"
)

// patience bounds every wait of a test; a loaded machine is slow.
const patience = 60 * time.Second

// bin holds the helper programs: bangerd with fault injection, a supervisor and
// a VMM without virtual machines.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "banger-daemon-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		bin = dir
		args := append([]string{"build", "-tags", "faultinject"}, raceFlags...)
		out, err := exec.Command("go", append(args, "-o", filepath.Join(dir, "bangerd"), "./daemontest/fakehost")...).CombinedOutput()
		if err != nil {
			fmt.Fprintf(os.Stderr, "build of the helper: %v\n%s", err, out)
			return 1
		}
		for _, name := range []string{"banger-vm", "qemu-system-x86_64"} {
			if err := os.Link(filepath.Join(dir, "bangerd"), filepath.Join(dir, name)); err != nil {
				panic(err)
			}
		}
		return m.Run()
	}())
}

// host is one user's home with a daemon that comes and goes.
type host struct {
	t      *testing.T
	home   layout.Home
	root   string
	env    []string
	daemon *exec.Cmd
	log    *syncBuffer
	ended  chan error
	client bangerv1connect.BangerClient
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newHost makes an empty home; its daemon is not started. Tests on hosts of
// their own run in parallel.
func newHost(t *testing.T) *host {
	t.Helper()
	t.Parallel()
	root := t.TempDir()
	home, err := layout.FromEnv(func(string) string { return root })
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(home.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := fmt.Sprintf("qemu_bin = %q\nspares.memory = \"0M\"\n", filepath.Join(bin, "qemu-system-x86_64"))
	if err := os.WriteFile(home.ConfigFile(), []byte(cfg), 0o600); err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, home: home, root: root}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, home.DaemonSocket())
	}}
	h.client = bangerv1connect.NewBangerClient(&http.Client{Transport: transport}, "http://bangerd")
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		h.kill()
		h.endAll()
		if t.Failed() && h.log != nil {
			t.Logf("daemon:\n%s", h.log)
		}
	})
	return h
}

// start runs a daemon and waits until it serves.
func (h *host) start(env ...string) *host {
	h.t.Helper()
	h.launch(env...)
	h.awaitServing()
	return h
}

func (h *host) launch(env ...string) {
	h.t.Helper()
	h.log = new(syncBuffer)
	h.daemon = exec.Command(filepath.Join(bin, "bangerd"))
	h.daemon.Env = append(append(os.Environ(), layout.HomeVar+"="+h.root), append(h.env, env...)...)
	h.daemon.Stderr = h.log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended, cmd := make(chan error, 1), h.daemon
	go func() { ended <- cmd.Wait() }()
	h.ended = ended
}

// awaitServing asks until the daemon answers or has ended.
func (h *host) awaitServing() {
	h.t.Helper()
	h.eventually("the daemon serves", func() bool {
		select {
		case err := <-h.ended:
			h.ended <- err
			h.t.Fatalf("the daemon ended: %v\n%s", err, h.log)
		default:
		}
		_, err := h.client.Status(h.t.Context(), connect.NewRequest(&bangerv1.StatusRequest{}))
		return err == nil
	})
}

// kill is kill -9 of the daemon.
func (h *host) kill() {
	if h.daemon == nil {
		return
	}
	h.daemon.Process.Kill()
	<-h.ended
	h.daemon = nil
}

// awaitEnd waits for the daemon to end by itself.
func (h *host) awaitEnd() error {
	h.t.Helper()
	select {
	case err := <-h.ended:
		h.daemon = nil
		return err
	case <-time.After(patience):
		h.t.Fatalf("the daemon does not end\n%s", h.log)
		return nil
	}
}

func anyProgram(string) bool { return true }

// endAll ends every process of the home's VMs.
func (h *host) endAll() { h.endIn(h.home.VMs()) }

// endIn ends every process of the VMs in a directory, or of the VM that has it.
func (h *host) endIn(dir string) {
	for range 3 { // a supervisor may start a VMM while we look
		for _, f := range process.Working(h.home.VMs(), anyProgram) {
			if f.Path != dir && !strings.HasPrefix(f.Path, dir+"/") {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			process.End(ctx, f.PID, f.Start)
			cancel()
		}
	}
}

func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			h.t.Fatalf("not in time: %s\n%s", what, h.log)
		}
	}
}

// created is what a create told its client.
type created struct {
	vm, spec *bangerv1.VM
	stages   []string
	err      error
}

func (h *host) create(ctx context.Context, req *bangerv1.CreateVMRequest) created {
	if req.MemoryMib == 0 {
		req.MemoryMib = 256
	}
	stream, err := h.client.CreateVM(ctx, connect.NewRequest(req))
	if err != nil {
		return created{err: apierr.FromConnect(err)}
	}
	return drain(stream)
}

func drain(stream *connect.ServerStreamForClient[bangerv1.VMProgress]) created {
	defer stream.Close()
	var c created
	for stream.Receive() {
		switch e := stream.Msg().Event.(type) {
		case *bangerv1.VMProgress_Spec:
			c.spec = e.Spec
		case *bangerv1.VMProgress_Vm:
			c.vm = e.Vm
		case *bangerv1.VMProgress_Progress:
			if e.Progress.Finished {
				c.stages = append(c.stages, e.Progress.Stage)
			}
		}
	}
	c.err = apierr.FromConnect(stream.Err())
	return c
}

// run creates a VM that must become ready.
func (h *host) run(name string) *bangerv1.VM {
	h.t.Helper()
	c := h.create(h.t.Context(), &bangerv1.CreateVMRequest{Name: name})
	if c.err != nil {
		h.t.Fatalf("create %s: %v\n%s", name, c.err, h.log)
	}
	return c.vm
}

func (h *host) get(ref string) (*bangerv1.VM, error) {
	r, err := h.client.GetVM(h.t.Context(), connect.NewRequest(&bangerv1.GetVMRequest{Ref: ref}))
	if err != nil {
		return nil, apierr.FromConnect(err)
	}
	return r.Msg.Vm, nil
}

func (h *host) mustGet(ref string) *bangerv1.VM {
	h.t.Helper()
	vm, err := h.get(ref)
	if err != nil {
		h.t.Fatal(err)
	}
	return vm
}

func (h *host) startVM(ref string) created {
	stream, err := h.client.StartVM(h.t.Context(), connect.NewRequest(&bangerv1.StartVMRequest{Ref: ref}))
	if err != nil {
		return created{err: apierr.FromConnect(err)}
	}
	return drain(stream)
}

func (h *host) stopVM(ref string) error {
	_, err := h.client.StopVM(h.t.Context(), connect.NewRequest(&bangerv1.StopVMRequest{Ref: ref}))
	return apierr.FromConnect(err)
}

func (h *host) pauseVM(ref string) error {
	_, err := h.client.PauseVM(h.t.Context(), connect.NewRequest(&bangerv1.PauseVMRequest{Ref: ref}))
	return apierr.FromConnect(err)
}

func (h *host) resumeVM(ref string) error {
	_, err := h.client.ResumeVM(h.t.Context(), connect.NewRequest(&bangerv1.ResumeVMRequest{Ref: ref}))
	return apierr.FromConnect(err)
}

func (h *host) killVM(ref string, signal int32) error {
	_, err := h.client.KillVM(h.t.Context(), connect.NewRequest(&bangerv1.KillVMRequest{Ref: ref, Signal: signal}))
	return apierr.FromConnect(err)
}

func (h *host) deleteVM(ref string, force bool) error {
	_, err := h.client.DeleteVM(h.t.Context(), connect.NewRequest(&bangerv1.DeleteVMRequest{Ref: ref, Force: force}))
	return apierr.FromConnect(err)
}

func (h *host) list() []*bangerv1.VM {
	h.t.Helper()
	r, err := h.client.ListVMs(h.t.Context(), connect.NewRequest(&bangerv1.ListVMsRequest{}))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Msg.Vms
}

// nothingLeft checks that no trace of any VM is left: processes, directories,
// records, operations, host keys.
func (h *host) nothingLeft() {
	h.t.Helper()
	h.consistent()
	if vms := h.list(); len(vms) != 0 {
		h.t.Errorf("VMs are left: %v", vms)
	}
	if entries, _ := os.ReadDir(h.home.VMs()); len(entries) != 0 {
		h.t.Errorf("directories are left: %v", entries)
	}
	if found := process.Working(h.home.VMs(), anyProgram); len(found) != 0 {
		h.t.Errorf("processes are left: %+v", found)
	}
	if text, err := os.ReadFile(h.home.KnownHosts()); err == nil && len(text) != 0 {
		h.t.Errorf("host keys are left: %s", text)
	}
}

// consistent checks that records and world agree, once the daemon is at rest.
func (h *host) consistent() {
	h.t.Helper()
	db, err := store.Open(h.home.Store(), slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	h.eventually("no operation is under way", func() bool {
		ops, err := db.Operations(h.t.Context())
		return err == nil && len(ops) == 0
	})
	// Spares are the daemon's, which may be removing one.
	h.eventually("there are no leftovers", func() bool {
		found, err := leftover.Find(h.t.Context(), h.home, db, anyProgram)
		found = slices.DeleteFunc(found, func(l leftover.Leftover) bool { return l.Spare })
		return err == nil && len(found) == 0
	})
	// What was killed a moment ago is noticed in a moment.
	h.eventually("every VM has the processes of its state", func() bool {
		for _, vm := range h.list() {
			n := 0
			for _, f := range process.Working(h.home.VMs(), anyProgram) {
				if f.Path == vm.Dir {
					n++
				}
			}
			alive := vm.State == string(banger.StateRunning) || vm.State == string(banger.StatePaused)
			if alive && n != 2 || !alive && n != 0 {
				return false
			}
		}
		return true
	})
}
