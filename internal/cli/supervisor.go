package cli

import (
	"context"
	"net"
	"net/http"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/unixsock"
)

// maxSupervised bounds one message of a supervisor, in bytes.
const maxSupervised = 1 << 20

// supervisorOf speaks to the supervisor of a VM; done lets go of the connection.
func supervisorOf(vm *bangerv1.VM) (client vmv1connect.SupervisorClient, done func()) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, layout.Instance(vm.Dir).Socket())
	}
	transport := &http.Transport{DialContext: dial}
	client = vmv1connect.NewSupervisorClient(&http.Client{Transport: transport}, "http://supervisor", connect.WithReadMaxBytes(maxSupervised))
	return client, transport.CloseIdleConnections
}

// mustRun is an error unless vm runs; a paused one is told apart.
func mustRun(vm *bangerv1.VM) error {
	switch banger.State(vm.State) {
	case banger.StateRunning:
		return nil
	case banger.StatePaused:
		return banger.Errorf(banger.CodeWrongState, "vm %q is paused", vm.Name).WithHint("banger vm resume %s", vm.Name)
	}
	return banger.Errorf(banger.CodeWrongState, "vm %q is %s", vm.Name, vm.State).WithHint("banger vm start %s", vm.Name)
}
