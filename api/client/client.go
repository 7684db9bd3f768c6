// Package client speaks to bangerd, starting it when it does not run, and to
// guests through their supervisors.
//
// Errors are *banger.Error (see api/apierr), with the codes of the root package.
package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/trace/tracerpc"
)

// Client is a connection to the daemon of one home. Its methods may be called
// from any goroutine.
type Client struct {
	home      layout.Home
	autostart bool
	rpc       bangerv1connect.BangerClient
	transport *http.Transport

	dialing sync.Mutex  // so that concurrent calls start one daemon
	heard   atomic.Bool // a daemon has answered
	greet   func(banger.Build)
}

// Options say how a Client behaves.
type Options struct {
	// NoStart makes calls fail with code unavailable when no daemon runs; else
	// one is started.
	NoStart bool
	// OnAnswer, if not nil, is called once, when the daemon first answers, with
	// its build: to compare it.
	OnAnswer func(banger.Build)
}

// New returns a client for home. It does nothing yet: the first call connects.
func New(home layout.Home, opts Options) *Client {
	c := &Client{home: home, autostart: !opts.NoStart, greet: opts.OnAnswer}
	// HTTP/1.1: connecting and two calls took 0.18-0.27 ms, over h2c 0.26-0.32.
	c.transport = &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dial(ctx) },
		DisableCompression: true,
		MaxIdleConns:       4,
		WriteBufferSize:    16 << 10,
		ReadBufferSize:     16 << 10,
	}
	c.rpc = bangerv1connect.NewBangerClient(&http.Client{Transport: listening{c}}, "http://bangerd",
		connect.WithAcceptCompression("gzip", nil, nil), connect.WithReadMaxBytes(maxMessage),
		connect.WithInterceptors(tracerpc.Client()))
	return c
}

// maxMessage bounds one message of the daemon, in bytes.
const maxMessage = 64 << 20

// Close drops idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Home returns the directories that this client works with.
func (c *Client) Home() layout.Home { return c.home }

// listening hears from the first answer what build the daemon is of.
type listening struct{ c *Client }

// RoundTrip implements http.RoundTripper. What no daemon has answered yet is sent
// again if the daemon was killed as it took it: another one starts.
func (l listening) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := l.c.transport.RoundTrip(req)
	if err != nil && !l.c.heard.Load() && cut(req, err) && repeatable(req) {
		if again := req.Clone(req.Context()); renew(again) {
			res, err = l.c.transport.RoundTrip(again)
		}
	}
	if err == nil && !l.c.heard.Swap(true) && l.c.greet != nil {
		l.c.greet(banger.BuildOfHeader(res.Header.Get(banger.BuildHeader)))
	}
	return res, err
}

// cut reports whether there was a connection that ended without an answer.
func cut(req *http.Request, err error) bool {
	var unreached *startError
	return !errors.As(err, &unreached) && req.Context().Err() == nil
}

// repeatable reports whether a call that may have reached a daemon that died may
// be made again. One that makes or starts a VM may: before its first word a daemon
// has done nothing that the next does not undo.
func repeatable(req *http.Request) bool {
	switch req.URL.Path {
	case bangerv1connect.BangerStatusProcedure, bangerv1connect.BangerListVMsProcedure,
		bangerv1connect.BangerGetVMProcedure, bangerv1connect.BangerLinkVMProcedure,
		bangerv1connect.BangerListImagesProcedure, bangerv1connect.BangerListKernelsProcedure,
		bangerv1connect.BangerListTemplatesProcedure, bangerv1connect.BangerListPortsProcedure,
		bangerv1connect.BangerGetPolicyProcedure, bangerv1connect.BangerCheckPolicyProcedure,
		bangerv1connect.BangerDiskUsageProcedure,
		bangerv1connect.BangerCreateVMProcedure, bangerv1connect.BangerStartVMProcedure:
		return true
	}
	return false
}

// renew gives a request its body again.
func renew(req *http.Request) bool {
	if req.GetBody == nil {
		return false
	}
	body, err := req.GetBody()
	req.Body = body
	return err == nil
}

// CloseIdleConnections is what http.Client looks for.
func (l listening) CloseIdleConnections() { l.c.transport.CloseIdleConnections() }

// unary makes one call and decodes its error.
func unary[Req, Res any](ctx context.Context, call func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	res, err := call(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, decode(ctx, err)
	}
	return res.Msg, nil
}

// decode prefers an error of our own (a daemon that would not start) to what
// the HTTP client made of it.
func decode(ctx context.Context, err error) error {
	var own *startError
	if errors.As(err, &own) {
		return own.err
	}
	if ctx.Err() != nil && context.Cause(ctx) != nil && errors.Is(ctx.Err(), context.Canceled) {
		return &banger.Error{Code: banger.CodeInterrupted, Message: "interrupted", Cause: context.Cause(ctx)}
	}
	return apierr.FromConnect(err)
}

// Status says what daemon runs.
func (c *Client) Status(ctx context.Context) (*bangerv1.StatusResponse, error) {
	return unary(ctx, c.rpc.Status, &bangerv1.StatusRequest{})
}

// Shutdown asks the daemon to end, and returns when it has said yes.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := unary(ctx, c.rpc.Shutdown, &bangerv1.ShutdownRequest{})
	return err
}

// VMEvents takes what a long call reports. It is called in order, by one
// goroutine.
type VMEvents interface {
	// Spec is called once, before anything slow, with what the VM will get.
	Spec(*bangerv1.VM)
	// Progress is called for each step.
	Progress(*bangerv1.Progress)
}

// CreateVM makes a VM and waits for it. Cancelling ctx undoes it.
func (c *Client) CreateVM(ctx context.Context, req *bangerv1.CreateVMRequest, events VMEvents) (*bangerv1.VM, error) {
	stream, err := c.rpc.CreateVM(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, decode(ctx, err)
	}
	return follow(ctx, stream, events)
}

// StartVM starts a VM and waits for it. Cancelling ctx stops it again.
func (c *Client) StartVM(ctx context.Context, req *bangerv1.StartVMRequest, events VMEvents) (*bangerv1.VM, error) {
	stream, err := c.rpc.StartVM(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, decode(ctx, err)
	}
	return follow(ctx, stream, events)
}

func follow(ctx context.Context, stream *connect.ServerStreamForClient[bangerv1.VMProgress], events VMEvents) (*bangerv1.VM, error) {
	defer stream.Close()
	var vm *bangerv1.VM
	for stream.Receive() {
		switch event := stream.Msg().Event.(type) {
		case *bangerv1.VMProgress_Progress:
			events.Progress(event.Progress)
		case *bangerv1.VMProgress_Spec:
			events.Spec(event.Spec)
		case *bangerv1.VMProgress_Vm:
			vm = event.Vm
		}
	}
	if err := stream.Err(); err != nil {
		return nil, decode(ctx, err)
	}
	if vm == nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "the daemon ended in the middle of its work").
			WithHint("banger daemon logs")
	}
	return vm, nil
}

// StopVM shuts a VM down; timeout 0 is the daemon's default.
func (c *Client) StopVM(ctx context.Context, ref string, timeout time.Duration) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.StopVM, &bangerv1.StopVMRequest{Ref: ref, TimeoutMs: timeout.Milliseconds()})
	return res.GetVm(), err
}

// KillVM powers a VM off at once; a signal other than 0 and 9 goes to its guest.
func (c *Client) KillVM(ctx context.Context, ref string, signal int) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.KillVM, &bangerv1.KillVMRequest{Ref: ref, Signal: int32(signal)})
	return res.GetVm(), err
}

// PauseVM has the guest of a VM stand still.
func (c *Client) PauseVM(ctx context.Context, ref string) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.PauseVM, &bangerv1.PauseVMRequest{Ref: ref})
	return res.GetVm(), err
}

// ResumeVM lets it go on.
func (c *Client) ResumeVM(ctx context.Context, ref string) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.ResumeVM, &bangerv1.ResumeVMRequest{Ref: ref})
	return res.GetVm(), err
}

// SetVM changes what a VM is.
func (c *Client) SetVM(ctx context.Context, req *bangerv1.SetVMRequest) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.SetVM, req)
	return res.GetVm(), err
}

// DiskUsage says what takes storage.
func (c *Client) DiskUsage(ctx context.Context) (*bangerv1.DiskUsageResponse, error) {
	return unary(ctx, c.rpc.DiskUsage, &bangerv1.DiskUsageRequest{})
}

// DeleteVM removes a VM, with force also one that runs. It returns its id.
func (c *Client) DeleteVM(ctx context.Context, ref string, force bool) (string, error) {
	res, err := unary(ctx, c.rpc.DeleteVM, &bangerv1.DeleteVMRequest{Ref: ref, Force: force})
	return res.GetId(), err
}

// DropVM removes a VM, also one that runs, and returns when that is sure: it is in
// no list any more, and the daemon does the rest, also if it is killed meanwhile.
func (c *Client) DropVM(ctx context.Context, ref string) error {
	_, err := unary(ctx, c.rpc.DeleteVM, &bangerv1.DeleteVMRequest{Ref: ref, Force: true, Background: true})
	return err
}

// ListVMs returns every VM, oldest first.
func (c *Client) ListVMs(ctx context.Context) ([]*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.ListVMs, &bangerv1.ListVMsRequest{})
	return res.GetVms(), err
}

// GetVM resolves one reference.
func (c *Client) GetVM(ctx context.Context, ref string) (*bangerv1.VM, error) {
	res, err := unary(ctx, c.rpc.GetVM, &bangerv1.GetVMRequest{Ref: ref})
	return res.GetVm(), err
}

// LinkVM returns where the guest link of a running VM is reached, waiting up to
// timeout for its agent.
func (c *Client) LinkVM(ctx context.Context, ref string, timeout time.Duration) (*bangerv1.LinkVMResponse, error) {
	return unary(ctx, c.rpc.LinkVM, &bangerv1.LinkVMRequest{Ref: ref, TimeoutMs: timeout.Milliseconds()})
}

// ListPorts returns what listens in a running VM, waiting up to timeout for the
// guest to say so; 0 is the daemon's default. With probe it is found out what
// speaks HTTP or TLS.
func (c *Client) ListPorts(ctx context.Context, ref string, probe bool, timeout time.Duration) (*bangerv1.ListPortsResponse, error) {
	return unary(ctx, c.rpc.ListPorts, &bangerv1.ListPortsRequest{Ref: ref, Probe: probe, TimeoutMs: timeout.Milliseconds()})
}

// ListImages returns the local images, with available also the catalog's.
func (c *Client) ListImages(ctx context.Context, available bool) ([]*bangerv1.Image, error) {
	res, err := unary(ctx, c.rpc.ListImages, &bangerv1.ListImagesRequest{Available: available})
	return res.GetImages(), err
}

// ListKernels returns the local kernels, with available also the catalog's.
func (c *Client) ListKernels(ctx context.Context, available bool) ([]*bangerv1.Kernel, error) {
	res, err := unary(ctx, c.rpc.ListKernels, &bangerv1.ListKernelsRequest{Available: available})
	return res.GetKernels(), err
}

// Lease keeps an ephemeral VM until release is called, or this process ends. A
// daemon that ends meanwhile is connected to again: the VM outlives it.
func (c *Client) Lease(ctx context.Context, ref string) (release func()) {
	ctx, cancel := context.WithCancel(ctx)
	var holder sync.WaitGroup
	holder.Go(func() {
		for again := time.Duration(0); ctx.Err() == nil; again = time.Second {
			pause(ctx, again)
			if banger.CodeOf(c.hold(ctx, ref)) == banger.CodeNotFound {
				return
			}
		}
	})
	return func() { cancel(); holder.Wait() }
}

// hold holds one lease stream until it ends.
func (c *Client) hold(ctx context.Context, ref string) error {
	stream, err := c.rpc.Lease(ctx, connect.NewRequest(&bangerv1.LeaseRequest{Ref: ref}))
	if err != nil {
		return decode(ctx, err)
	}
	defer stream.Close()
	for stream.Receive() {
	}
	if err := stream.Err(); err != nil {
		return decode(ctx, err)
	}
	return nil
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
