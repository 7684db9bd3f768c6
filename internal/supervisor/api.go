package supervisor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/trace"
	"github.com/banger-dev/banger/internal/trace/tracerpc"
	"github.com/banger-dev/banger/internal/unixsock"
)

// maxRequest bounds a request to vm.sock, in bytes.
const maxRequest = 64 << 10

// api serves banger.vm.v1.Supervisor.
type api struct{ s *supervisor }

func (a api) Status(context.Context, *connect.Request[vmv1.StatusRequest]) (*connect.Response[vmv1.StatusResponse], error) {
	now, _ := a.s.status.get()
	return connect.NewResponse(now), nil
}

func (a api) Watch(ctx context.Context, _ *connect.Request[vmv1.WatchRequest], out *connect.ServerStream[vmv1.StatusResponse]) error {
	for {
		now, changed := a.s.status.get()
		if err := out.Send(now); err != nil {
			return err
		}
		if now.State == stateStopped {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Stop goes on when its caller has left: a half-stopped guest helps nobody.
func (a api) Stop(ctx context.Context, r *connect.Request[vmv1.StopRequest]) (*connect.Response[vmv1.StopResponse], error) {
	clean, err := a.s.stop(context.WithoutCancel(ctx), time.Duration(r.Msg.TimeoutMs)*time.Millisecond)
	if err != nil {
		return nil, apierr.ToConnect(err)
	}
	return connect.NewResponse(&vmv1.StopResponse{Clean: clean}), nil
}

func (a api) Kill(ctx context.Context, _ *connect.Request[vmv1.KillRequest]) (*connect.Response[vmv1.KillResponse], error) {
	select {
	case <-a.s.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := a.s.kill(); err != nil {
		return nil, apierr.ToConnect(err)
	}
	return connect.NewResponse(&vmv1.KillResponse{}), nil
}

// Signal implements vmv1connect.SupervisorHandler.
func (a api) Signal(ctx context.Context, r *connect.Request[vmv1.SignalRequest]) (*connect.Response[vmv1.SignalResponse], error) {
	err := a.started(ctx)
	if err == nil {
		err = a.s.signal(ctx, r.Msg.Signal)
	}
	return connect.NewResponse(&vmv1.SignalResponse{}), wire(err)
}

// Pause goes on when its caller has left, so that it ends in one state or the
// other.
func (a api) Pause(ctx context.Context, _ *connect.Request[vmv1.PauseRequest]) (*connect.Response[vmv1.PauseResponse], error) {
	return connect.NewResponse(&vmv1.PauseResponse{}), a.steadily(ctx, a.s.pause)
}

// Resume goes on when its caller has left, as Pause does.
func (a api) Resume(ctx context.Context, _ *connect.Request[vmv1.ResumeRequest]) (*connect.Response[vmv1.ResumeResponse], error) {
	return connect.NewResponse(&vmv1.ResumeResponse{}), a.steadily(ctx, a.s.resume)
}

// Grow goes on when its caller has left, as Pause does.
func (a api) Grow(ctx context.Context, r *connect.Request[vmv1.GrowRequest]) (*connect.Response[vmv1.GrowResponse], error) {
	err := a.started(ctx)
	if err == nil {
		err = a.s.grow(context.WithoutCancel(ctx), r.Msg.Disk, r.Msg.Bytes)
	}
	return connect.NewResponse(&vmv1.GrowResponse{}), wire(err)
}

// Health implements vmv1connect.SupervisorHandler.
func (a api) Health(ctx context.Context, _ *connect.Request[vmv1.HealthRequest]) (*connect.Response[vmv1.HealthResponse], error) {
	if err := a.started(ctx); err != nil {
		return nil, wire(err)
	}
	health, err := a.s.health(ctx)
	return connect.NewResponse(health), wire(err)
}

// Stats implements vmv1connect.SupervisorHandler.
func (a api) Stats(ctx context.Context, _ *connect.Request[vmv1.StatsRequest]) (*connect.Response[vmv1.StatsResponse], error) {
	if err := a.started(ctx); err != nil {
		return nil, wire(err)
	}
	stats, err := a.s.stats(ctx)
	return connect.NewResponse(stats), wire(err)
}

// steadily does what has a limit of its own, once the VMM runs.
func (a api) steadily(ctx context.Context, do func(context.Context) error) error {
	err := a.started(ctx)
	if err == nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), runTime)
		defer cancel()
		err = do(bounded)
	}
	return wire(err)
}

// wire is err for the wire, and nil for nil.
func wire(err error) error {
	if err == nil {
		return nil
	}
	return apierr.ToConnect(err)
}

// started waits for the VMM.
func (a api) started(ctx context.Context) error {
	select {
	case <-a.s.started:
		return nil
	case <-a.s.over:
		return banger.Errorf(banger.CodeWrongState, "the VM has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Claim implements vmv1connect.SupervisorHandler.
func (a api) Claim(ctx context.Context, r *connect.Request[vmv1.ClaimRequest]) (*connect.Response[vmv1.ClaimResponse], error) {
	if err := a.s.claim(ctx, r.Msg.Spec, r.Msg.Lazy); err != nil {
		return nil, apierr.ToConnect(err)
	}
	now, _ := a.s.status.get()
	return connect.NewResponse(&vmv1.ClaimResponse{Status: now}), nil
}

// serveAPI answers on vm.sock until the returned function is called, which lets
// the calls that are under way end, within a limit.
func (s *supervisor) serveAPI() (shutdown func(), err error) {
	l, err := unixsock.Listen(s.dir.Socket())
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(vmv1connect.NewSupervisorHandler(api{s}, connect.WithReadMaxBytes(maxRequest),
		connect.WithInterceptors(tracerpc.Server("banger-vm", s.trace))))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(unixsock.OwnerOnly(l))
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if server.Shutdown(ctx) != nil {
			server.Close()
		}
		<-ended
	}, nil
}

// serveDoor answers on link.sock until the returned function is called.
func (s *supervisor) serveDoor(ctx context.Context) (shutdown func(), err error) {
	l, err := unixsock.Listen(s.dir.Link())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &door{dial: s.dialGuest, notify: s.countConnections}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.serve(ctx, unixsock.OwnerOnly(l))
	}()
	return func() {
		l.Close()
		cancel()
		<-ended
	}, nil
}

// dialGuest opens a stream to a guest port, waiting for the VM and for a session
// with it.
func (s *supervisor) dialGuest(ctx context.Context, port uint32) (net.Conn, error) {
	mark := trace.Begin(ctx, fmt.Sprintf("dial guest port %d", port))
	defer mark.End()
	select {
	case <-s.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.awaitSession(ctx); err != nil {
		return nil, err
	}
	return s.vm.Link().Dial(ctx, port)
}
