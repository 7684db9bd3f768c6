package daemon

import (
	"context"
	"os"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/trace"
)

// api is banger.v1.Banger; the contract is in its .proto file.
type api struct{ d *Daemon }

func (a api) Status(context.Context, *connect.Request[bangerv1.StatusRequest]) (*connect.Response[bangerv1.StatusResponse], error) {
	build, adopted := banger.BuildStamp(), int32(0)
	for _, m := range a.d.all() {
		if m.look().client != nil {
			adopted++
		}
	}
	return connect.NewResponse(&bangerv1.StatusResponse{
		Pid: int32(os.Getpid()), Socket: a.d.opts.Home.DaemonSocket(), Log: a.d.opts.Home.DaemonLog(),
		Build:      &bangerv1.Build{Version: build.Version, Commit: build.Commit, Time: build.Time},
		VmsAdopted: adopted, StartedUnixMs: a.d.started.UnixMilli(),
		Spares: int32(a.d.spares.waiting("")), MaxSpares: int32(a.d.spares.most()),
		DnsAddress: a.d.dnsAddress(), DnsError: a.d.names.err,
	}), nil
}

func (a api) Shutdown(context.Context, *connect.Request[bangerv1.ShutdownRequest]) (*connect.Response[bangerv1.ShutdownResponse], error) {
	// The server lets replies leave before it ends.
	a.d.quit()
	return connect.NewResponse(&bangerv1.ShutdownResponse{}), nil
}

func (a api) CreateVM(ctx context.Context, req *connect.Request[bangerv1.CreateVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	return a.d.create(ctx, req.Msg, &reporter{send: out.Send, recorder: trace.From(ctx)})
}

func (a api) StartVM(ctx context.Context, req *connect.Request[bangerv1.StartVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	return a.d.start(ctx, req.Msg, &reporter{send: out.Send, recorder: trace.From(ctx)})
}

func (a api) StopVM(ctx context.Context, req *connect.Request[bangerv1.StopVMRequest]) (*connect.Response[bangerv1.StopVMResponse], error) {
	vm, err := a.d.stop(ctx, req.Msg)
	return connect.NewResponse(&bangerv1.StopVMResponse{Vm: vm}), err
}

func (a api) KillVM(ctx context.Context, req *connect.Request[bangerv1.KillVMRequest]) (*connect.Response[bangerv1.KillVMResponse], error) {
	vm, err := a.d.kill(ctx, req.Msg)
	return connect.NewResponse(&bangerv1.KillVMResponse{Vm: vm}), err
}

func (a api) PauseVM(ctx context.Context, req *connect.Request[bangerv1.PauseVMRequest]) (*connect.Response[bangerv1.PauseVMResponse], error) {
	vm, err := a.d.change(ctx, req.Msg.Ref, pausing())
	return connect.NewResponse(&bangerv1.PauseVMResponse{Vm: vm}), err
}

func (a api) ResumeVM(ctx context.Context, req *connect.Request[bangerv1.ResumeVMRequest]) (*connect.Response[bangerv1.ResumeVMResponse], error) {
	vm, err := a.d.change(ctx, req.Msg.Ref, resuming())
	return connect.NewResponse(&bangerv1.ResumeVMResponse{Vm: vm}), err
}

func (a api) SetVM(ctx context.Context, req *connect.Request[bangerv1.SetVMRequest]) (*connect.Response[bangerv1.SetVMResponse], error) {
	vm, err := a.d.set(ctx, req.Msg)
	return connect.NewResponse(&bangerv1.SetVMResponse{Vm: vm}), err
}

func (a api) DeleteVM(ctx context.Context, req *connect.Request[bangerv1.DeleteVMRequest]) (*connect.Response[bangerv1.DeleteVMResponse], error) {
	id, err := a.d.delete(ctx, req.Msg)
	return connect.NewResponse(&bangerv1.DeleteVMResponse{Id: id}), err
}

func (a api) ListVMs(context.Context, *connect.Request[bangerv1.ListVMsRequest]) (*connect.Response[bangerv1.ListVMsResponse], error) {
	out := new(bangerv1.ListVMsResponse)
	for _, m := range a.d.all() {
		out.Vms = append(out.Vms, m.proto())
	}
	return connect.NewResponse(out), nil
}

func (a api) GetVM(ctx context.Context, req *connect.Request[bangerv1.GetVMRequest]) (*connect.Response[bangerv1.GetVMResponse], error) {
	m, err := a.d.resolve(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	m.askSpans(ctx)
	return connect.NewResponse(&bangerv1.GetVMResponse{Vm: m.proto()}), nil
}

func (a api) LinkVM(ctx context.Context, req *connect.Request[bangerv1.LinkVMRequest]) (*connect.Response[bangerv1.LinkVMResponse], error) {
	out, err := a.d.link(ctx, req.Msg)
	return connect.NewResponse(out), err
}

func (a api) ListPorts(ctx context.Context, req *connect.Request[bangerv1.ListPortsRequest]) (*connect.Response[bangerv1.ListPortsResponse], error) {
	out, err := a.d.ports(ctx, req.Msg)
	return connect.NewResponse(out), err
}

func (a api) Lease(ctx context.Context, req *connect.Request[bangerv1.LeaseRequest], out *connect.ServerStream[bangerv1.LeaseEvent]) error {
	return a.d.lease(ctx, req.Msg.Ref, func() error { return out.Send(&bangerv1.LeaseEvent{}) })
}

func (a api) ListImages(_ context.Context, req *connect.Request[bangerv1.ListImagesRequest]) (*connect.Response[bangerv1.ListImagesResponse], error) {
	images, err := a.d.opts.Assets.Images(req.Msg.Available)
	return connect.NewResponse(&bangerv1.ListImagesResponse{Images: images}), err
}

func (a api) DiskUsage(ctx context.Context, _ *connect.Request[bangerv1.DiskUsageRequest]) (*connect.Response[bangerv1.DiskUsageResponse], error) {
	out, err := a.d.diskUsage(ctx)
	return connect.NewResponse(out), err
}

func (a api) ListKernels(_ context.Context, req *connect.Request[bangerv1.ListKernelsRequest]) (*connect.Response[bangerv1.ListKernelsResponse], error) {
	kernels, err := a.d.opts.Assets.Kernels(req.Msg.Available)
	return connect.NewResponse(&bangerv1.ListKernelsResponse{Kernels: kernels}), err
}
