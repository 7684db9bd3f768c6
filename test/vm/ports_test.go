package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serveScript serves the VM's name: on 3000 of every address, on 3001 of the
// loopback, and on 3002 of IPv6 alone.
const serveScript = `
import http.server, socket, sys, threading
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()
class Server6(Server):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("I am " + sys.argv[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *args): pass
for s in (Server(("0.0.0.0", 3000), Handler), Server(("127.0.0.1", 3001), Handler), Server6(("::", 3002), Handler)):
    threading.Thread(target=s.serve_forever).start()
print("serving", flush=True)
`

// serve starts that server in a VM; it goes on when its command has ended.
func (h *home) serve(name string) {
	h.t.Helper()
	h.must("vm", "exec", name, "--", "sh", "-c",
		`setsid python3 -c "$0" "$1" >/root/serving 2>&1 & until grep -q serving /root/serving; do sleep 0.1; done`, serveScript, name)
}

// port is what vm ports --json says, as far as the tests look.
type port struct {
	Protocol       string   `json:"protocol"`
	Port           int      `json:"port"`
	GuestAddresses []string `json:"guest_addresses"`
	HostAddress    string   `json:"host_address"`
	HostPort       int      `json:"host_port"`
	Published      bool     `json:"published"`
	Process        string   `json:"process"`
	Command        string   `json:"command"`
}

func (h *home) ports(name string) (list []port) {
	h.t.Helper()
	var said struct {
		Ports []port `json:"ports"`
	}
	text := h.must("vm", "ports", "--json", name)
	if err := json.Unmarshal([]byte(text), &said); err != nil {
		h.t.Fatalf("vm ports --json: %v\n%s", err, text)
	}
	return said.Ports
}

// awaitPorts returns what serves in the VM, by port, once all of it is forwarded.
func (h *home) awaitPorts(name string) map[int]port {
	h.t.Helper()
	found := map[int]port{}
	eventually(h.t, "the ports of "+name+" are forwarded", func() bool {
		for _, p := range h.ports(name) {
			if p.Port >= 3000 && p.HostPort != 0 && !p.Published {
				found[p.Port] = p
			}
		}
		return len(found) == 3
	})
	return found
}

// fetch is one GET on a connection of its own.
func fetch(t *testing.T, addr string, port int) string {
	t.Helper()
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + net.JoinHostPort(addr, fmt.Sprint(port)))
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	must(t, err)
	return string(body)
}

// expectServed wants each port of the VM to answer with its name.
func (h *home) expectServed(name string) {
	h.t.Helper()
	for number, p := range h.awaitPorts(name) {
		if p.HostPort != number || p.Protocol != "http" || p.Process != "python3" || !strings.Contains(p.Command, "python3 -c") {
			h.t.Errorf("%s: %+v", name, p)
		}
		if got := fetch(h.t, p.HostAddress, p.HostPort); got != "I am "+name {
			h.t.Errorf("%s, port %d: %q", name, number, got)
		}
	}
}

// TestTwoVMsOnOnePort: each is reached at its own address, also after its
// supervisor and the daemon have crashed, and no more once it is stopped.
func TestTwoVMsOnOnePort(t *testing.T) {
	h := newHome(t)
	dns := freePort(t)
	h.configure(fmt.Sprintf("spares.memory = \"0M\"\n[network]\ndns_port = %d\naddress_range = \"127.97.0.0/16\"\n", dns))
	published := freePort(t)
	h.must("vm", "create", "--name", "a", "--publish", fmt.Sprintf("%d:3001", published))
	h.must("vm", "create", "--name", "b")
	for _, name := range []string{"a", "b"} {
		h.serve(name)
		h.expectServed(name)
	}
	if got := fetch(t, "127.0.0.1", published); got != "I am a" {
		t.Errorf("the published port: %q", got)
	}
	for _, name := range []string{"a", "b"} {
		if got := fetch(t, addressOf(t, dns, name+".vm"), 3000); got != "I am "+name {
			t.Errorf("http://%s.vm:3000: %q", name, got)
		}
	}
	must(t, syscall.Kill(h.show("a").SupervisorPID, syscall.SIGKILL))
	h.expectServed("a")
	if got := fetch(t, "127.0.0.1", published); got != "I am a" {
		t.Errorf("the published port, after the supervisor's crash: %q", got)
	}
	addr := h.awaitPorts("b")[3000].HostAddress
	daemon := h.daemonPID()
	must(t, syscall.Kill(daemon, syscall.SIGKILL))
	eventually(t, "the daemon is gone", func() bool { return syscall.Kill(daemon, 0) != nil })
	if got := fetch(t, addr, 3000); got != "I am b" {
		t.Errorf("without a daemon: %q", got)
	}
	h.expectServed("b")
	h.must("vm", "stop", "b")
	if got := fetch(t, addr, 3000); !strings.Contains(got, "refused") {
		t.Errorf("a stopped VM: %q", got)
	}
}

// TestPortsOfCopies: VMs that are copies of one have addresses of their own.
func TestPortsOfCopies(t *testing.T) {
	h := spareHome(t)
	h.must("vm", "create", "--name", "spare")
	h.must("vm", "create", "--name", "fork", "--nat=false")
	for _, name := range []string{"spare", "fork"} {
		h.serve(name)
		h.expectServed(name)
	}
}

// addressOf asks the daemon's name server.
func addressOf(t *testing.T, port int, name string) string {
	t.Helper()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, fmt.Sprintf("127.97.0.53:%d", port))
	}}
	found, err := r.LookupHost(t.Context(), name)
	must(t, err)
	return found[0]
}

// freePort is a port of 127.0.0.1 that nobody has.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
