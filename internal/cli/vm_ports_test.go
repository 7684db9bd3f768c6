package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// ListPorts answers with what a guest has made up, and what it serves.
func (d *fakeDaemon) ListPorts(_ context.Context, req *connect.Request[bangerv1.ListPortsRequest]) (*connect.Response[bangerv1.ListPortsResponse], error) {
	vm, err := d.find(req.Msg.Ref)
	if err != nil {
		return nil, err
	}
	protocol := "tcp"
	if req.Msg.Probe {
		protocol = "https"
	}
	return connect.NewResponse(&bangerv1.ListPortsResponse{Vm: vm, More: true, Ports: []*bangerv1.Port{
		{Port: 80, HostAddress: "127.0.0.1", HostPort: 8080, Published: true, Protocol: "tcp"},
		{Port: 443, HostAddress: vm.Address, HostPort: 10443, Protocol: protocol, Reason: "port 443 is taken on this host",
			GuestAddresses: []string{"0.0.0.0", "::"}, Pid: 7, Process: "\x1b[2Jx", Command: "x \u202e --serve"},
		{Port: 53, Protocol: "tcp", Reason: "leads elsewhere", GuestAddresses: []string{"127.0.0.53"}},
	}}), nil
}

func TestPorts(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running").Address = "127.77.4.1"
	w := newWorld(t, d, "")
	w.app.IO.OutTTY = true
	w.expect(t, w.run("vm", "ports", "dev", "--progress=none"), 0,
		"PROTO  ENDPOINT              PROCESS   COMMAND\n"+
			"tcp    127.0.0.1:8080        -         -\n"+
			"https  https://dev.vm:10443  \\x1b[2Jx  x \\u202e --serve\n"+
			"tcp    -                     -         -\n", "port 443: port 443 is taken on this host\nport 53: leads elsewhere\nvm \"dev\": it listens on more ports")
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "ports", "dev", "-q"), 0, "127.0.0.1:8080\n127.77.4.1:10443\n", "")
	// Where the name is not known, the address is what can be clicked.
	w = newWorld(t, d, "")
	w.app.LookupHost = func(context.Context, string) ([]string, error) { return []string{"10.1.1.1"}, nil }
	w.run("vm", "ports", "dev", "--json")
	var got portsView
	if err := json.Unmarshal(w.out.Bytes(), &got); err != nil || len(got.Ports) != 3 || got.Ports[1].Endpoint != "https://127.77.4.1:10443" || !got.More {
		t.Errorf("%s: %v", w.out.String(), err)
	}
	w = newWorld(t, d, "")
	w.run("vm", "ports", "dev", "--no-probe")
	if strings.Contains(w.out.String(), "https") {
		t.Errorf("without a probe: %s", w.out.String())
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "ports", "none"), 3, "", `vm "none" does not exist`)
}

func TestEndpoint(t *testing.T) {
	for want, e := range map[string]string{
		"http://dev.vm":     endpoint("http", "dev.vm", 80),
		"https://dev.vm":    endpoint("https", "dev.vm", 443),
		"https://dev.vm:80": endpoint("https", "dev.vm", 80),
		"http://[::1]":      endpoint("http", "::1", 80),
		"http://[::1]:81":   endpoint("http", "::1", 81),
		"dev.vm:22":         endpoint("tcp", "dev.vm", 22),
		"":                  endpoint("http", "dev.vm", 0),
	} {
		if e != want {
			t.Errorf("%q, want %q", e, want)
		}
	}
}

func TestHosts(t *testing.T) {
	d := newFakeDaemon(t)
	d.add("dev", "running").Address = "127.77.4.1"
	d.add("old", "stopped").Address = "127.77.4.2"
	d.add("bad name\n", "stopped").Address = "127.77.4.3"
	d.add("none", "stopped")
	w := newWorld(t, d, "")
	w.expect(t, w.run("hosts"), 0, "# banger: begin\n127.77.4.1 dev.vm\n127.77.4.2 old.vm\n# banger: end\n", "")
}

func TestPublishFlag(t *testing.T) {
	d := newFakeDaemon(t)
	w := newWorld(t, d, "")
	if code := w.run("vm", "create", "--name", "web", "--publish", "8080:80", "--publish", "[::1]:8081:81"); code != 0 {
		t.Fatalf("exit %d, %s", code, w.err.String())
	}
	var got []string
	for _, p := range d.created.Publish {
		got = append(got, fmt.Sprint(p.Address, " ", p.HostPort, " ", p.GuestPort))
	}
	if strings.Join(got, ", ") != "127.0.0.1 8080 80, ::1 8081 81" {
		t.Errorf("asked for %v", got)
	}
	w = newWorld(t, d, "")
	w.expect(t, w.run("vm", "create", "--publish", "80"), 2, "", `--publish: "80" is not [ADDR:]HOST:GUEST`)
	w = newWorld(t, d, "")
	w.expect(t, w.run("run", "--publish", "localhost:80:80", "--", "true"), 125, "", "is not an IP address")
}
