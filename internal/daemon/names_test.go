package daemon_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/vmdns"
)

// lookup asks the name server at addr.
func lookup(ctx context.Context, addr, name string) (string, error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	got, err := r.LookupHost(ctx, name)
	return strings.Join(got, " "), err
}

// TestNames: the daemon answers for its VMs, whatever state they are in, as long
// as they exist.
func TestNames(t *testing.T) {
	h := newHost(t)
	l, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.LocalAddr().(*net.UDPAddr).Port
	l.Close()
	text, err := os.ReadFile(h.home.ConfigFile())
	if err != nil {
		t.Fatal(err)
	}
	text = fmt.Appendf(text, "[network]\ndns_port = %d\naddress_range = \"127.98.0.0/16\"\n", port)
	if err := os.WriteFile(h.home.ConfigFile(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	status := func() *bangerv1.StatusResponse {
		r, err := h.client.Status(t.Context(), connect.NewRequest(&bangerv1.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
	at := status().DnsAddress
	if want := fmt.Sprintf("127.98.0.53:%d", port); at != want {
		t.Fatalf("names are answered at %q (%s), want %s", at, status().DnsError, want)
	}
	vm := h.run("dev")
	for _, name := range []string{"dev.vm", "DEV.vm", vm.Id + ".vm"} {
		if got, err := lookup(t.Context(), at, name); got != vm.Address {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	if got, err := lookup(t.Context(), at, vmdns.ProbeName); got != "127.98.0.53" {
		t.Errorf("%s is %q, %v", vmdns.ProbeName, got, err)
	}
	h.kill()
	h.start()
	if err := h.stopVM("dev"); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(t.Context(), at, "dev.vm"); got != vm.Address {
		t.Errorf("stopped, and another daemon: %q, %v", got, err)
	}
	if err := h.deleteVM("dev", true); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(t.Context(), at, "dev.vm"); err == nil {
		t.Errorf("deleted, and still %q", got)
	}
	// Another program has the port: all else goes on.
	h.kill()
	taken, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	h.start()
	if s := status(); s.DnsAddress != "" || !strings.Contains(s.DnsError, "is taken") {
		t.Errorf("%v", s)
	}
}
