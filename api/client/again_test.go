package client

import (
	"context"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/banger/v1/bangerv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/unixsock"
)

// dying is the socket of a daemon that dies as it takes its first connection, and
// of the one that follows it.
type dying struct {
	net.Listener
	died atomic.Bool
}

func (d *dying) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err == nil && !d.died.Swap(true) {
		conn.Close()
		return d.Listener.Accept()
	}
	return conn, err
}

type oneVM struct {
	bangerv1connect.UnimplementedBangerHandler
}

func (oneVM) GetVM(context.Context, *connect.Request[bangerv1.GetVMRequest]) (*connect.Response[bangerv1.GetVMResponse], error) {
	return connect.NewResponse(&bangerv1.GetVMResponse{Vm: &bangerv1.VM{Name: "dev"}}), nil
}

func (oneVM) CreateVM(_ context.Context, _ *connect.Request[bangerv1.CreateVMRequest], out *connect.ServerStream[bangerv1.VMProgress]) error {
	return out.Send(&bangerv1.VMProgress{Event: &bangerv1.VMProgress_Vm{Vm: &bangerv1.VM{Name: "dev"}}})
}

func (oneVM) StopVM(context.Context, *connect.Request[bangerv1.StopVMRequest]) (*connect.Response[bangerv1.StopVMResponse], error) {
	return connect.NewResponse(&bangerv1.StopVMResponse{}), nil
}

type noEvents struct{}

func (noEvents) Spec(*bangerv1.VM)           {}
func (noEvents) Progress(*bangerv1.Progress) {}

// A call that may be made twice is, if the daemon dies as it takes it.
func TestDaemonThatDiesAtTheFirstCall(t *testing.T) {
	for name, c := range map[string]struct {
		again bool
		call  func(context.Context, *Client) error
	}{
		"get": {true, func(ctx context.Context, c *Client) error { _, err := c.GetVM(ctx, "dev"); return err }},
		"create": {true, func(ctx context.Context, c *Client) error {
			_, err := c.CreateVM(ctx, &bangerv1.CreateVMRequest{}, noEvents{})
			return err
		}},
		"stop": {false, func(ctx context.Context, c *Client) error { _, err := c.StopVM(ctx, "dev", 0); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			home := layout.Home{State: t.TempDir()}
			l, err := unixsock.Listen(home.DaemonSocket())
			if err != nil {
				t.Fatal(err)
			}
			_, handler := bangerv1connect.NewBangerHandler(oneVM{})
			server := &http.Server{Handler: handler}
			var serving sync.WaitGroup
			serving.Go(func() { server.Serve(&dying{Listener: l}) })
			defer serving.Wait()
			defer server.Close()
			client := New(home, Options{NoStart: true})
			defer client.Close()
			if err := c.call(t.Context(), client); (err == nil) != c.again {
				t.Errorf("the first call: %v", err)
			}
			if err := c.call(t.Context(), client); err != nil {
				t.Errorf("the next: %v", err)
			}
		})
	}
	if _, err := New(layout.Home{State: t.TempDir()}, Options{NoStart: true}).GetVM(t.Context(), "dev"); banger.CodeOf(err) != banger.CodeUnavailable || os.IsNotExist(err) {
		t.Errorf("with no daemon at all: %v", err)
	}
}
