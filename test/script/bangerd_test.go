package script

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/agent/process"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
	"github.com/banger-dev/banger/internal/unixsock"
)

// daemon keeps records of VMs; their guest is this host, with the agent's own
// process manager.
type daemon struct {
	bangerv1connect.UnimplementedBangerHandler
	home    layout.Home
	manager *process.Manager
	started time.Time
	stop    chan struct{}

	mu  sync.Mutex
	vms []*bangerv1.VM
}

// bangerd is the daemon's main. $FAKE_FAILS makes it fail to start with that.
func bangerd(args []string) int {
	home, err := layout.FromEnv(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bangerd:", err)
		return 5
	}
	if len(args) > 0 && args[0] == "doctor" {
		fmt.Println(`{"checks":[{"name":"kvm","status":"warn","found":"there is no /dev/kvm","fix":"modprobe kvm"},{"name":"qemu","status":"ok","found":"7.2"}]}`)
		return 0
	}
	if reason := os.Getenv("FAKE_FAILS"); reason != "" {
		fmt.Fprintln(os.Stderr, "level=INFO msg=starting")
		fmt.Fprintln(os.Stderr, "bangerd:", reason)
		return 5
	}
	if err := serve(home); err != nil {
		fmt.Fprintln(os.Stderr, "bangerd:", err)
		return 5
	}
	return 0
}

func serve(home layout.Home) error {
	lock, err := lockfile.Try(home.DaemonLock())
	if err != nil {
		return err
	}
	if lock == nil {
		return errors.New("another daemon has the store")
	}
	defer lock.Release()
	starts, err := os.OpenFile(filepath.Join(home.State, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprintln(starts, "started")
	starts.Close()
	d := &daemon{home: home, started: time.Now(), stop: make(chan struct{}),
		manager: process.NewManager(process.Options{Log: slog.New(slog.DiscardHandler)})}
	defer d.manager.Close()
	l, err := unixsock.Listen(home.DaemonSocket())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(bangerv1connect.NewBangerHandler(d))
	server := &http.Server{Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(unixsock.OwnerOnly(l)) }()
	<-d.stop
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	server.Shutdown(ctx)
	<-ended
	return nil
}

func (d *daemon) Status(context.Context, *connect.Request[bangerv1.StatusRequest]) (*connect.Response[bangerv1.StatusResponse], error) {
	stamp := banger.BuildStamp()
	return connect.NewResponse(&bangerv1.StatusResponse{Pid: int32(os.Getpid()), Socket: d.home.DaemonSocket(), Log: d.home.DaemonLog(),
		StartedUnixMs: d.started.UnixMilli(), Build: &bangerv1.Build{Version: stamp.Version, Commit: stamp.Commit, Time: stamp.Time}}), nil
}

func (d *daemon) Shutdown(context.Context, *connect.Request[bangerv1.ShutdownRequest]) (*connect.Response[bangerv1.ShutdownResponse], error) {
	close(d.stop)
	return connect.NewResponse(&bangerv1.ShutdownResponse{}), nil
}

func (d *daemon) ListVMs(context.Context, *connect.Request[bangerv1.ListVMsRequest]) (*connect.Response[bangerv1.ListVMsResponse], error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return connect.NewResponse(&bangerv1.ListVMsResponse{Vms: d.vms}), nil
}

func (d *daemon) find(ref string) (*bangerv1.VM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, vm := range d.vms {
		if vm.Id == ref || vm.Name == ref {
			return vm, nil
		}
	}
	return nil, apierr.ToConnect(banger.Errorf(banger.CodeNotFound, "vm %q does not exist", ref).WithHint("banger vm list -a"))
}

func (d *daemon) GetVM(_ context.Context, req *connect.Request[bangerv1.GetVMRequest]) (*connect.Response[bangerv1.GetVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	return connect.NewResponse(&bangerv1.GetVMResponse{Vm: vm}), err
}

func (d *daemon) LinkVM(_ context.Context, req *connect.Request[bangerv1.LinkVMRequest]) (*connect.Response[bangerv1.LinkVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&bangerv1.LinkVMResponse{Vm: vm, LinkSocket: layout.Instance(vm.Dir).Link()}), nil
}

func (d *daemon) DeleteVM(_ context.Context, req *connect.Request[bangerv1.DeleteVMRequest]) (*connect.Response[bangerv1.DeleteVMResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.vms {
		if d.vms[i] == vm {
			d.vms = append(d.vms[:i:i], d.vms[i+1:]...)
			break
		}
	}
	return connect.NewResponse(&bangerv1.DeleteVMResponse{Id: vm.Id}), nil
}

func (d *daemon) CreateVM(_ context.Context, req *connect.Request[bangerv1.CreateVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	if req.Msg.Image == "unknown" {
		return apierr.ToConnect(banger.Errorf(banger.CodeNotFound, `image "unknown" is not local and not in the catalog`).WithHint("banger image list --available"))
	}
	id := banger.NewID()
	vm := &bangerv1.VM{Id: id, Name: req.Msg.Name, State: "running", Image: "debian-bookworm", Vcpu: 1, MemoryMib: 512,
		DiskBytes: 8 * banger.GiB, Driver: "fake", Accel: "none", Ready: "system", Dir: d.home.Instance(id).Dir(), CreatedUnixMs: time.Now().UnixMilli()}
	if vm.Name == "" {
		vm.Name = banger.RandomName()
	}
	if err := d.open(vm); err != nil {
		return err
	}
	d.mu.Lock()
	d.vms = append(d.vms, vm)
	d.mu.Unlock()
	out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Spec{Spec: vm}})
	return out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Vm{Vm: vm}})
}

// open serves the link socket of a VM for as long as the daemon lives.
func (d *daemon) open(vm *bangerv1.VM) error {
	if err := os.MkdirAll(vm.Dir, 0o700); err != nil {
		return err
	}
	l, err := unixsock.Listen(layout.Instance(vm.Dir).Link())
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go d.link(conn)
		}
	}()
	return nil
}

func (d *daemon) link(conn net.Conn) {
	var line strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(line.String(), "\n"); line.Write(one) {
		if _, err := conn.Read(one); err != nil {
			conn.Close()
			return
		}
	}
	fmt.Fprint(conn, "OK\n")
	d.manager.ServeExec(conn, func() bool { return false })
}

func (d *daemon) Lease(ctx context.Context, _ *connect.Request[bangerv1.LeaseRequest], out *connect.ServerStream[bangerv1.LeaseEvent]) error {
	out.Send(&bangerv1.LeaseEvent{})
	<-ctx.Done()
	return nil
}
