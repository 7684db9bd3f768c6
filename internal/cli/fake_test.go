package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/unixsock"
	"google.golang.org/protobuf/proto"
)

// fakeDaemon is a daemon of one home with VMs that are only records, and a
// guest that a test scripts.
type fakeDaemon struct {
	bangerv1connect.UnimplementedBangerHandler
	t    *testing.T
	home layout.Home

	mu      sync.Mutex
	vms     []*bangerv1.VM
	calls   []string
	created *bangerv1.CreateVMRequest
	leased  chan struct{}
	build   banger.Build
	// origin and problem are how its VMs began.
	origin, problem string

	// onCreate, if set, replaces the creation after the spec was sent.
	onCreate func(ctx context.Context, vm *bangerv1.VM) error
	// onDelete, if set, is called first.
	onDelete func()
	// guest serves one exec connection.
	guest func(start *agentv1.ExecStart, frames *stream.Reader, conn net.Conn)
}

func newFakeDaemon(t *testing.T) *fakeDaemon {
	t.Helper()
	root := t.TempDir()
	home, err := layout.FromEnv(func(string) string { return root })
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDaemon{t: t, home: home, build: banger.BuildStamp(), leased: make(chan struct{})}
	if err := os.MkdirAll(home.State, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := unixsock.Listen(home.DaemonSocket())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(bangerv1connect.NewBangerHandler(d))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(banger.BuildHeader, d.build.Header())
		mux.ServeHTTP(w, r)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	return d
}

// add makes a VM record, with a link socket whose guest is d.guest.
func (d *fakeDaemon) add(name, state string) *bangerv1.VM {
	d.t.Helper()
	id := fmt.Sprintf("%x%030d", len(d.vms)+10, len(d.vms))
	vm := &bangerv1.VM{Id: id, Name: name, State: state, Image: "debian-bookworm", Vcpu: 2, MemoryMib: 512, Nat: true,
		DiskBytes: 8 * banger.GiB, OverlayBytes: 8 * banger.GiB, Driver: "qemu", Accel: "tcg",
		Ready: "system", Origin: d.origin, TemplateError: d.problem, Dir: d.home.Instance(id).Dir(), CreatedUnixMs: time.Now().Add(-time.Hour).UnixMilli()}
	if text, ok := strings.CutPrefix(d.problem, "spare: "); ok {
		vm.TemplateError, vm.SpareError = "", text
	}
	if err := os.MkdirAll(vm.Dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	l, err := unixsock.Listen(layout.Instance(vm.Dir).Link())
	if err != nil {
		d.t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { defer conn.Close(); d.serveLink(conn) })
		}
	})
	d.t.Cleanup(func() { l.Close(); conns.Wait() })
	d.vms = append(d.vms, vm)
	return vm
}

func (d *fakeDaemon) serveLink(conn net.Conn) {
	var line [len("CONNECT 1025\n")]byte
	if _, err := io.ReadFull(conn, line[:]); err != nil {
		return
	}
	io.WriteString(conn, "OK\n")
	if string(line[:]) != "CONNECT 1025\n" {
		io.Copy(conn, conn) // another port: an echo
		return
	}
	frames := stream.NewReader(conn)
	_, payload, err := frames.Next()
	var start agentv1.ExecStart
	if err != nil || proto.Unmarshal(payload, &start) != nil {
		return
	}
	d.guest(&start, frames, conn)
}

// send writes frames to the client.
func send(conn net.Conn, kind stream.Kind, msg proto.Message) {
	payload, _ := proto.Marshal(msg)
	conn.Write(stream.Append(nil, kind, payload))
}

// echoGuest writes its arguments to stdout, "err" to stderr, and exits with 7.
func echoGuest(start *agentv1.ExecStart, _ *stream.Reader, conn net.Conn) {
	send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
	conn.Write(stream.Append(nil, stream.Stdout, []byte(strings.Join(start.Argv, " ")+"\n")))
	conn.Write(stream.Append(nil, stream.Stderr, []byte("err\n")))
	send(conn, stream.Exit, &agentv1.ExecExit{Code: 7})
	io.Copy(io.Discard, conn)
}

// refusingGuest never starts anything.
func refusingGuest(code string) func(*agentv1.ExecStart, *stream.Reader, net.Conn) {
	return func(_ *agentv1.ExecStart, _ *stream.Reader, conn net.Conn) {
		send(conn, stream.Error, &agentv1.ExecError{Code: code, Message: "because\x1b[2J"})
		io.Copy(io.Discard, conn)
	}
}

func (d *fakeDaemon) called(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
}

// did reports whether a call was made.
func (d *fakeDaemon) did(call string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c == call {
			return true
		}
	}
	return false
}

func (d *fakeDaemon) find(ref string) (*bangerv1.VM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vm, err := resolve(d.vms, ref)
	if err != nil {
		return nil, apierr.ToConnect(err)
	}
	return vm, nil
}

func (d *fakeDaemon) Status(context.Context, *connect.Request[bangerv1.StatusRequest]) (*connect.Response[bangerv1.StatusResponse], error) {
	return connect.NewResponse(&bangerv1.StatusResponse{Pid: int32(os.Getpid()), Socket: d.home.DaemonSocket(), Log: d.home.DaemonLog(),
		VmsAdopted: 3, Build: &bangerv1.Build{Version: d.build.Version, Commit: d.build.Commit, Time: d.build.Time}}), nil
}

func (d *fakeDaemon) ListVMs(context.Context, *connect.Request[bangerv1.ListVMsRequest]) (*connect.Response[bangerv1.ListVMsResponse], error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return connect.NewResponse(&bangerv1.ListVMsResponse{Vms: d.vms}), nil
}

func (d *fakeDaemon) GetVM(_ context.Context, req *connect.Request[bangerv1.GetVMRequest]) (*connect.Response[bangerv1.GetVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	return connect.NewResponse(&bangerv1.GetVMResponse{Vm: vm}), err
}

func (d *fakeDaemon) LinkVM(_ context.Context, req *connect.Request[bangerv1.LinkVMRequest]) (*connect.Response[bangerv1.LinkVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	if vm.State != "running" {
		return nil, apierr.ToConnect(banger.Errorf(banger.CodeWrongState, "vm %q is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name))
	}
	return connect.NewResponse(&bangerv1.LinkVMResponse{Vm: vm, LinkSocket: layout.Instance(vm.Dir).Link()}), nil
}

func (d *fakeDaemon) StopVM(_ context.Context, req *connect.Request[bangerv1.StopVMRequest]) (*connect.Response[bangerv1.StopVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	d.called("stop %s", vm.Name)
	return connect.NewResponse(&bangerv1.StopVMResponse{Vm: &bangerv1.VM{Id: vm.Id, Name: vm.Name, State: "stopped"}}), nil
}

func (d *fakeDaemon) DeleteVM(_ context.Context, req *connect.Request[bangerv1.DeleteVMRequest]) (*connect.Response[bangerv1.DeleteVMResponse], error) {
	if d.onDelete != nil {
		d.onDelete()
	}
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	if vm.State == "running" && !req.Msg.Force {
		return nil, apierr.ToConnect(banger.Errorf(banger.CodeWrongState, "vm %q is running", vm.Name).WithHint("banger vm delete -f %s", vm.Name))
	}
	d.called("delete %s", vm.Name)
	return connect.NewResponse(&bangerv1.DeleteVMResponse{Id: vm.Id}), nil
}

func (d *fakeDaemon) CreateVM(ctx context.Context, req *connect.Request[bangerv1.CreateVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	name := req.Msg.Name
	if name == "" {
		name = "quiet-otter"
	}
	d.mu.Lock()
	d.created = req.Msg
	vm := d.add(name, "running")
	d.mu.Unlock()
	out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Spec{Spec: vm}})
	out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Progress{Progress: &bangerv1.Progress{Stage: "boot", Finished: true, ElapsedMs: 1500}}})
	if d.onCreate != nil {
		if err := d.onCreate(ctx, vm); err != nil {
			return apierr.ToConnect(err)
		}
	}
	return out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Vm{Vm: vm}})
}

func (d *fakeDaemon) StartVM(_ context.Context, req *connect.Request[bangerv1.StartVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return err
	}
	d.called("start %s", vm.Name)
	return out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Vm{Vm: vm}})
}

func (d *fakeDaemon) Lease(ctx context.Context, req *connect.Request[bangerv1.LeaseRequest], out *connect.ServerStream[bangerv1.LeaseEvent]) error {
	close(d.leased)
	out.Send(&bangerv1.LeaseEvent{})
	<-ctx.Done()
	return nil
}

func (d *fakeDaemon) ListImages(_ context.Context, req *connect.Request[bangerv1.ListImagesRequest]) (*connect.Response[bangerv1.ListImagesResponse], error) {
	images := []*bangerv1.Image{{Name: "debian-bookworm", Id: strings.Repeat("ab", 32), Source: "recipe", SizeBytes: 300 * banger.MiB, Kernel: "debian-6.1", Local: true}}
	if req.Msg.Available {
		images = append(images, &bangerv1.Image{Name: "debian-trixie", Source: "recipe", Description: "Debian 13"})
	}
	return connect.NewResponse(&bangerv1.ListImagesResponse{Images: images}), nil
}

// world is one run of the command with streams of its own.
type world struct {
	app      *App
	out, err screen
	signal   func(os.Signal)
	raw      bool
	restored int
	hard     chan int
	programs [][]string
}

// screen is a stream that can be waited for.
type screen struct {
	mu   sync.Mutex
	more sync.Cond
	buf  bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more.L = &s.mu
	s.more.Broadcast()
	return s.buf.Write(p)
}

// await waits until text has been written.
func (s *screen) await(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.more.L = &s.mu
	for !strings.Contains(s.buf.String(), text) {
		s.more.Wait()
	}
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) Bytes() []byte { return []byte(s.String()) }
func (s *screen) Len() int      { return len(s.String()) }

// newWorld makes the App of a user of d (or of an empty home).
func newWorld(t *testing.T, d *fakeDaemon, stdin string) *world {
	t.Helper()
	w := &world{hard: make(chan int, 1)}
	root := t.TempDir()
	if d != nil {
		root = strings.TrimSuffix(d.home.State, "/state")
	}
	w.app = &App{
		IO: IOStreams{In: strings.NewReader(stdin), Out: &w.out, Err: &w.err,
			Size:    func() (int, int) { return 80, 24 },
			Raw:     func() error { w.raw = true; return nil },
			Restore: func() { w.raw = false; w.restored++ }},
		Getenv: func(name string) string {
			return map[string]string{layout.HomeVar: root, "TERM": "xterm"}[name]
		},
		Environ: []string{"COPIED=yes"},
		Self:    "/opt/banger/bin/banger",
		Companion: func(name string) (string, error) {
			return "", banger.Errorf(banger.CodeUnavailable, "%s is missing", name)
		},
		HardExit: func(code int) { w.hard <- code },
		Command: func(_ context.Context, path string, args ...string) (int, error) {
			w.programs = append(w.programs, append([]string{path}, args...))
			return 3, nil
		},
		Now:        time.Now,
		LookupHost: func(context.Context, string) ([]string, error) { return []string{"127.77.4.1"}, nil },
		Notify: func(ch chan<- os.Signal) func() {
			w.signal = func(s os.Signal) { ch <- s }
			return func() {}
		},
	}
	return w
}

// run runs one command line.
func (w *world) run(args ...string) int { return w.app.Run(args) }

// expect fails unless the exit code and the two streams are as wanted; streams
// that are not said are not looked at.
func (w *world) expect(t *testing.T, code, want int, out, errText string) {
	t.Helper()
	if code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
	if out != "" && w.out.String() != out {
		t.Errorf("stdout is %q, want %q", w.out.String(), out)
	}
	if errText != "" && !strings.Contains(w.err.String(), errText) {
		t.Errorf("stderr is %q, want %q in it", w.err.String(), errText)
	}
	if t.Failed() {
		t.Logf("stdout: %s\nstderr: %s", w.out.String(), w.err.String())
	}
}

const sigint = syscall.SIGINT
