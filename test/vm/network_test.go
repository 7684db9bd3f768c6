package vm

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
)

// probeScript asks the guest's python to connect; it prints the outcome.
const probeScript = `
import socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
start = time.time()
try:
    socket.create_connection((host, port), 20).close()
    print("connected")
except Exception as e:
    print("refused" if time.time() - start < 10 else "slow", type(e).__name__)
`

func (h *home) connects(name, host string, port int) string {
	h.t.Helper()
	out := h.must("vm", "exec", name, "--", "python3", "-c", probeScript, host, fmt.Sprint(port))
	return strings.Fields(out)[0]
}

// TestHostIsOutOfReach: a service of the host, on loopback and on its own
// address, answers no guest, with nat and without; with the config's word it
// does.
func TestHostIsOutOfReach(t *testing.T) {
	h := newHome(t)
	port, addr := hostService(t)
	h.must("vm", "create", "--name", "open")
	h.must("vm", "create", "--name", "shut", "--nat=false")
	for _, name := range []string{"open", "shut"} {
		for _, host := range []string{"127.0.0.1", "192.168.127.1", addr, "169.254.169.254", "10.0.0.1"} {
			if got := h.connects(name, host, port); got != "refused" {
				t.Errorf("%s: %s:%d is %s", name, host, port, got)
			}
		}
	}
	if got := h.connects("shut", "example.org", 80); got != "refused" {
		t.Errorf("without nat a name is %s", got)
	}
}

// TestNATReaches: with nat the guest reaches a server that is not the host's
// own: here one that the config allows by its address.
func TestNATReaches(t *testing.T) {
	h := newHome(t)
	port, addr := hostService(t)
	h.configure(fmt.Sprintf("spares.memory = \"0M\"\n[network]\nallow_private = [%q]\n", addr+"/32"))
	h.must("vm", "create", "--name", "nat")
	h.must("vm", "create", "--name", "nonat", "--nat=false")
	if got := h.connects("nat", addr, port); got != "connected" {
		t.Errorf("with nat: %s", got)
	}
	if got := h.connects("nonat", addr, port); got != "refused" {
		t.Errorf("without nat: %s", got)
	}
}

// hostService serves on every address of the host and returns the port and an
// address that is not loopback.
func hostService(t *testing.T) (port int, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "0.0.0.0:0")
	must(t, err)
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return l.Addr().(*net.TCPAddr).Port, n.IP.String()
		}
	}
	t.Fatal("this host has no address but loopback")
	return 0, ""
}
