package supervisor

import (
	"io"
	"net"
	"testing"
	"time"

	"connectrpc.com/connect"
	vmv1 "github.com/banger-dev/banger/api/vm/v1"
	"github.com/banger-dev/banger/internal/layout"
)

// instanceWithPorts is an instance with an address that no other test uses, and a
// published port.
func instanceWithPorts(t *testing.T) layout.Instance {
	t.Helper()
	dir := instance(t)
	spec, err := loadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	spec.Address = "127.77.3.78"
	spec.Publish = []*vmv1.Publish{{Address: "127.0.0.1", GuestPort: 18080}, {Address: "nowhere", GuestPort: 1}}
	if err := writeSpec(dir.Spec(), spec, false); err != nil {
		t.Fatal(err)
	}
	return dir
}

func portsOf(t *testing.T, dir layout.Instance) *vmv1.PortsResponse {
	t.Helper()
	out, err := client(dir).Ports(t.Context(), connect.NewRequest(&vmv1.PortsRequest{TimeoutMs: limit.Milliseconds()}))
	if err != nil {
		t.Fatal(err)
	}
	return out.Msg
}

func through(t *testing.T, p *vmv1.Port) string {
	t.Helper()
	conn, err := net.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(p.HostAddress), Port: int(p.HostPort)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit))
	io.WriteString(conn, "hello")
	conn.CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// TestPortsAndTheirSuccessor: what listens on the guest's loopback is reached at
// the VM's own address and at a published port, also after a crash.
func TestPortsAndTheirSuccessor(t *testing.T) {
	dir := instanceWithPorts(t)
	cmd := launch(t, dir)
	check := func() {
		t.Helper()
		await(t, dir, ready)
		now := portsOf(t, dir)
		if len(now.Ports) != 2 || now.Unknown != "" || !now.Ports[0].Published {
			t.Fatalf("ports %v", now)
		}
		if p := now.Ports[1]; p.HostAddress != "127.77.3.78" || p.HostPort != 18080 || p.Process != "server" || p.GuestAddresses[0] != "127.0.0.1" {
			t.Errorf("port %v", p)
		}
		for _, p := range now.Ports {
			if got := through(t, p); got != "127.0.0.1:18080\nhello" {
				t.Errorf("%v: %q", p, got)
			}
		}
	}
	check()
	if now := portsOf(t, dir); now.LastConnectionUnixMs == 0 {
		t.Error("no connection is counted")
	}
	cmd.Process.Kill()
	cmd.Wait()
	next := launch(t, dir, "--adopt")
	await(t, dir, func(r *vmv1.StatusResponse) bool { return r.Successor })
	check()
	// One that is open does not hold up the end.
	open, err := net.Dial("tcp", "127.77.3.78:18080")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	open.SetDeadline(time.Now().Add(limit))
	if _, err := io.ReadFull(open, make([]byte, len("127.0.0.1:18080\n"))); err != nil {
		t.Fatal(err)
	}
	if _, err := client(dir).Stop(t.Context(), connect.NewRequest(&vmv1.StopRequest{})); err != nil {
		t.Fatal(err)
	}
	next.Wait()
	if _, err := open.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the VM")
	}
	if conn, err := net.Dial("tcp", "127.77.3.78:18080"); err == nil {
		conn.Close()
		t.Error("the port outlives the VM")
	}
}
