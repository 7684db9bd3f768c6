package daemon_test

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/apierr"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/config"
)

func (h *host) ports(ref string) (*bangerv1.ListPortsResponse, error) {
	r, err := h.client.ListPorts(h.t.Context(), connect.NewRequest(&bangerv1.ListPortsRequest{Ref: ref, Probe: true}))
	if err != nil {
		return nil, apierr.FromConnect(err)
	}
	return r.Msg, nil
}

// TestAddresses: every VM has one of its user's, of its own, and keeps it.
func TestAddresses(t *testing.T) {
	h := newHost(t).start()
	share := config.Network{}.Addresses(os.Getuid())
	seen := map[string]bool{}
	for _, name := range []string{"a", "b", "c"} {
		vm := h.run(name)
		if addr, err := netip.ParseAddr(vm.Address); err != nil || !share.Contains(addr) || seen[vm.Address] {
			t.Errorf("%s has %q, of %s, %v", name, vm.Address, share, seen)
		}
		seen[vm.Address] = true
	}
	before := h.mustGet("a").Address
	got, err := h.ports("a")
	if err != nil || got.Vm.Name != "a" || len(got.Ports) != 1 || got.Ports[0].HostAddress != before || got.Ports[0].Protocol != "http" {
		t.Errorf("ports %v, %v", got, err)
	}
	h.kill()
	h.start()
	if after := h.mustGet("a").Address; after != before {
		t.Errorf("another daemon: %s became %s", before, after)
	}
	if err := h.stopVM("a"); err != nil {
		t.Fatal(err)
	}
	_, err = h.ports("a")
	wantError(t, err, banger.CodeWrongState, "is stopped", "banger vm start a")
	// Another range in the config moves a VM when it starts again, by another daemon.
	f, err := os.OpenFile(h.home.ConfigFile(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("[network]\naddress_range = \"127.99.0.0/24\"\n")
	f.Close()
	h.kill()
	h.start()
	if c := h.startVM("a"); c.err != nil || !netip.MustParsePrefix("127.99.0.0/24").Contains(netip.MustParseAddr(c.vm.Address)) {
		t.Errorf("%+v", c)
	}
}

func TestPublish(t *testing.T) {
	h := newHost(t).start()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint32(l.Addr().(*net.TCPAddr).Port)
	publish := []*bangerv1.Publish{{HostPort: port, GuestPort: 80}}
	c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "web", Publish: publish})
	wantError(t, c.err, banger.CodeWrongState, "is taken on this host", "another number")
	h.nothingLeft()
	l.Close()
	if c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "web", Publish: publish}); c.err != nil {
		t.Fatal(c.err)
	}
	got, err := h.ports("web")
	if err != nil || len(got.Ports) != 2 || !got.Ports[1].Published || got.Ports[1].HostPort != port || got.Ports[1].HostAddress != "127.0.0.1" {
		t.Errorf("ports %v, %v", got, err)
	}
	if vm := h.mustGet("web"); len(vm.Publish) != 1 || vm.Publish[0].Address != "127.0.0.1" || vm.Publish[0].GuestPort != 80 {
		t.Errorf("vm %v", vm)
	}
	for _, bad := range [][]*bangerv1.Publish{
		{{HostPort: 1 << 16, GuestPort: 1}}, {{HostPort: 1}}, {{Address: "localhost", HostPort: 1, GuestPort: 1}},
		{{HostPort: 1, GuestPort: 1}, {HostPort: 1, GuestPort: 2}}, {{Address: "192.0.2.1", HostPort: port, GuestPort: 1}},
	} {
		c := h.create(t.Context(), &bangerv1.CreateVMRequest{Name: "bad", Publish: bad})
		if banger.CodeOf(c.err) != banger.CodeUsage {
			t.Errorf("%v: %v", bad, c.err)
		}
	}
}

// TestPortsThroughACrash: who asks while a supervisor crashes hears its successor.
func TestPortsThroughACrash(t *testing.T) {
	h := newHost(t).start()
	vm := h.run("dev")
	for range 5 {
		if err := syscall.Kill(int(vm.SupervisorPid), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		got, err := h.ports("dev")
		if err != nil || len(got.Ports) != 1 {
			t.Fatalf("%v, %v", got, err)
		}
		before := vm.SupervisorPid
		h.eventually("a successor is there", func() bool {
			vm = h.mustGet("dev")
			return vm.SupervisorPid != 0 && vm.SupervisorPid != before
		})
	}
}
