package vm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// reachScript is a guest's program: each argument is a thing to do, and each line
// of its output how that went.
const reachScript = `
import socket, ssl, struct, sys
def http(sock, host):
    sock.sendall(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\nConnection: close\r\n\r\n")
    data = b""
    while True:
        more = sock.recv(4096)
        if not more: break
        data += more
    return data.split(b"\r\n\r\n", 1)[1].decode()
def do(what, name, host, port):
    if what == "lookup": return socket.gethostbyname(name)
    if what == "txt":
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(10)
        q = b"".join(bytes([len(l)]) + l.encode() for l in name.split(".")) + b"\0"
        s.connect((host, port)) # or Linux does not tell that it was refused
        s.send(struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + q + struct.pack(">HH", 16, 1))
        return "rcode %d" % (s.recv(4096)[3] & 15)
    s = socket.create_connection((name, port), 10); s.settimeout(10)
    if what == "tls":
        ctx = ssl.create_default_context(); ctx.check_hostname = False; ctx.verify_mode = ssl.CERT_NONE
        s = ctx.wrap_socket(s, server_hostname=host)
    return http(s, host)
for arg in sys.argv[1:]:
    what, name, host, port = arg.split(",")
    try: print(do(what, name, host, int(port)))
    except Exception as e: print("failed", type(e).__name__)
`

// world is what the guests of a test reach: a web server, with and without TLS,
// that says which host it was asked for, and a name server that knows every name
// but those below evil.example.
type world struct {
	addr       string
	http, tls  int
	nameServer string

	mu    sync.Mutex
	asked []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := new(world)
	handler := http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		fmt.Fprint(out, "hello from "+host)
	})
	w.http, w.addr = serve(t, handler, nil)
	w.tls, _ = serve(t, handler, &tls.Config{Certificates: []tls.Certificate{certificate(t)}})
	names, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { w.answer(names) })
	t.Cleanup(func() { names.Close(); serving.Wait() })
	w.nameServer = names.LocalAddr().String()
	return w
}

// serve serves on every address of the host, and returns one that is not loopback.
func serve(t *testing.T, handler http.Handler, secure *tls.Config) (port int, addr string) {
	t.Helper()
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	must(t, err)
	port = l.Addr().(*net.TCPAddr).Port
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	server := &http.Server{Handler: handler}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() { server.Close(); serving.Wait() })
	addrs, err := net.InterfaceAddrs()
	must(t, err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return port, n.IP.String()
		}
	}
	t.Fatal("this host has no address but loopback")
	return 0, ""
}

// certificate is one for any name: the guests do not look.
func certificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	self := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, self, self, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// answer is the name server.
func (w *world) answer(conn *net.UDPConn) {
	buf := make([]byte, 4096)
	for {
		n, peer, err := conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		w.mu.Lock()
		w.asked = append(w.asked, q.Name.String())
		w.mu.Unlock()
		answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
		if q.Type == dnsmessage.TypeA {
			answer.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(w.addr).To4())},
			}}
		}
		if packed, err := answer.Pack(); err == nil {
			_, _ = conn.WriteToUDP(packed, peer)
		}
	}
}

// heard reports whether the name server was asked for something with text in it.
func (w *world) heard(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(strings.Join(w.asked, " "), text)
}

// newWorldHome is a home whose VMs live in that world: its address is the host's,
// which the config takes out of what is refused always.
func newWorldHome(t *testing.T) (*home, *world) {
	t.Helper()
	h, w := newHome(t), newWorld(t)
	h.configure(fmt.Sprintf("spares.memory = \"0M\"\n[network]\nallow_private = [%q]\ndns_upstream = %q\n", w.addr+"/32", w.nameServer))
	return h, w
}

// reach has a VM do things, and returns how each went.
func (h *home) reach(name string, do ...string) []string {
	h.t.Helper()
	args := append([]string{"vm", "exec", name, "--", "python3", "-c", reachScript}, do...)
	lines := strings.Split(h.must(args...), "\n")
	if len(lines) != len(do) {
		h.t.Fatalf("%q: %q", do, lines)
	}
	return lines
}

// TestPolicyByName: an allowed name works, its neighbour on the same address does
// not, and nothing of another name leaves.
func TestPolicyByName(t *testing.T) {
	h, w := newWorldHome(t)
	h.must("vm", "create", "--name", "dev", "--allow", fmt.Sprintf("good.example:%d", w.http), "--allow", fmt.Sprintf("*.fine.example:%d", w.tls))
	plain := func(connect, host string) string { return fmt.Sprintf("http,%s,%s,%d", connect, host, w.http) }
	secure := func(connect, host string) string { return fmt.Sprintf("tls,%s,%s,%d", connect, host, w.tls) }
	for i, got := range h.reach("dev",
		plain("good.example", "good.example"), secure("a.fine.example", "a.fine.example"),
		plain("good.example", "neighbour.example"), secure("a.fine.example", "neighbour.example"),
		"lookup,neighbour.example,,0", "lookup,fine.example,,0", plain(w.addr, "other.example"),
		"txt,c2VjcmV0.evil.example,192.168.127.1,53", "txt,c2VjcmV0.evil.example,"+w.addr+",53", "txt,good.example,192.168.127.1,53",
	) {
		want := []string{
			"hello from good.example", "hello from a.fine.example", "failed ConnectionResetError", "failed ConnectionResetError",
			"failed gaierror", "failed gaierror", "failed ConnectionResetError", "rcode 3", "failed ConnectionRefusedError", "rcode 0",
		}[i]
		if got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	if w.heard("c2VjcmV0") || w.heard("neighbour") {
		t.Errorf("it left in a lookup: %q", w.asked)
	}
	h.logged("dev", map[string]string{
		"c2VjcmV0.evil.example": "name", "neighbour.example": "host", "other.example": "host",
	})
	for target, code := range map[string]int{
		fmt.Sprintf("good.example:%d", w.http): 0, "good.example": 1, "evil.example:80": 1, "127.0.0.1:80": 1,
	} {
		if r := h.run("vm", "policy", "check", "dev", target); r.code != code {
			t.Errorf("check %s: exit %d, %s%s", target, r.code, r.stdout, r.stderr)
		}
	}
}

// logged checks that the log of a policy has a refusal of each name, for a reason.
func (h *home) logged(name string, want map[string]string) {
	h.t.Helper()
	got := map[string]string{}
	for line := range strings.Lines(h.must("vm", "policy", "log", "--json", name)) {
		var e struct{ Time, Name, Reason, Verdict, Rule string }
		must(h.t, json.Unmarshal([]byte(line), &e))
		if e.Time == "" || e.Verdict == "" || e.Rule == "" {
			h.t.Errorf("%s", line)
		}
		if got[strings.ToLower(e.Name)] != want[e.Name] || got[strings.ToLower(e.Name)] == "" {
			got[strings.ToLower(e.Name)] = e.Reason
		}
	}
	for name, reason := range want {
		if got[strings.ToLower(name)] != reason {
			h.t.Errorf("%s is logged for %q, want %q; all: %v", name, got[strings.ToLower(name)], reason, got)
		}
	}
}

// TestPolicyIsEditedLive: a policy that is replaced ends what it forbids, spares what
// it allows, and holds over the death of the supervisor and of the daemon.
func TestPolicyIsEditedLive(t *testing.T) {
	h, w := newWorldHome(t)
	target := func(name string) string { return fmt.Sprintf("%s:%d", name, w.http) }
	h.must("vm", "create", "--name", "dev", "--allow", target("one.example"), "--allow", target("two.example"))
	one, two := h.holdOpen("dev", "one.example", w.http), h.holdOpen("dev", "two.example", w.http)
	h.must("vm", "policy", "set", "dev", "--allow", target("two.example"))
	if got := one(); got != "cut" {
		t.Errorf("the connection that is forbidden now: %q", got)
	}
	if got := two(); got != "kept" {
		t.Errorf("the connection that is allowed still: %q", got)
	}
	get := func(name string) string { return fmt.Sprintf("http,%s,%s,%d", name, name, w.http) }
	check := func(when string) {
		t.Helper()
		if got := h.reach("dev", get("one.example"), get("two.example")); got[0] != "failed gaierror" || got[1] != "hello from two.example" {
			t.Errorf("%s: %q", when, got)
		}
	}
	check("edited")
	before := h.show("dev")
	must(t, syscall.Kill(before.SupervisorPID, syscall.SIGKILL))
	eventually(t, "a successor is there", func() bool {
		now := h.show("dev")
		return now.SupervisorPID != 0 && now.SupervisorPID != before.SupervisorPID && now.State == "running"
	})
	check("after the supervisor's death")
	h.must("daemon", "restart")
	check("after the daemon's")
	h.must("vm", "policy", "set", "dev", "none")
	if got := h.reach("dev", get("two.example")); got[0] != "failed gaierror" {
		t.Errorf("none: %q", got)
	}
	h.must("vm", "policy", "set", "dev", "open")
	if got := h.reach("dev", get("one.example")); got[0] != "hello from one.example" {
		t.Errorf("open: %q", got)
	}
}

// holdOpen has a guest keep a connection on which it has asked once. The function
// has it ask again and returns "kept" if it is answered, "cut" if there was a reset.
func (h *home) holdOpen(vm, name string, port int) func() string {
	h.t.Helper()
	const script = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10); s.settimeout(60)
def ask():
    s.sendall(b"GET / HTTP/1.1\r\nHost: " + sys.argv[1].encode() + b"\r\n\r\n")
    return s.recv(4096)
ask(); print("open", flush=True); sys.stdin.read()
try: print("kept" if ask() else "ended")
except (ConnectionResetError, BrokenPipeError): print("cut")
except Exception as e: print(type(e).__name__)
`
	cmd := h.command("vm", "exec", vm, "--", "python3", "-c", script, name, fmt.Sprint(port))
	out, err := cmd.StdoutPipe()
	must(h.t, err)
	again, err := cmd.StdinPipe()
	must(h.t, err)
	must(h.t, cmd.Start())
	buf := make([]byte, len("open\n"))
	if _, err := io.ReadFull(out, buf); err != nil || string(buf) != "open\n" {
		h.t.Fatalf("%q, %v", buf, err)
	}
	return func() string {
		again.Close()
		rest, _ := io.ReadAll(out)
		_ = cmd.Wait()
		return strings.TrimSpace(string(rest))
	}
}

// TestPolicyIsLearned: a job passes under the policy that its learning wrote, and
// what it did not do is refused.
func TestPolicyIsLearned(t *testing.T) {
	h, w := newWorldHome(t)
	job := []string{
		fmt.Sprintf("http,web.example,web.example,%d", w.http), fmt.Sprintf("tls,a.cdn.example,a.cdn.example,%d", w.tls),
		fmt.Sprintf("tls,b.cdn.example,b.cdn.example,%d", w.tls), fmt.Sprintf("tls,c.cdn.example,c.cdn.example,%d", w.tls),
		"lookup,only.example,,0",
	}
	want := []string{"hello from web.example", "hello from a.cdn.example", "hello from b.cdn.example", "hello from c.cdn.example", w.addr}
	run := func(vm string) {
		t.Helper()
		if got := h.reach(vm, job...); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %q", vm, got)
		}
	}
	h.must("vm", "create", "--name", "learner", "--policy", "learn")
	run("learner")
	text := h.must("vm", "policy", "suggest", "learner")
	for _, rule := range []string{fmt.Sprintf(`"allow web.example:%d"`, w.http), fmt.Sprintf(`"allow *.cdn.example:%d"`, w.tls), `"allow only.example"`} {
		if !strings.Contains(text, rule) {
			t.Errorf("%s is missing in\n%s", rule, text)
		}
	}
	file := filepath.Join(h.dir, "policy.toml")
	must(t, os.WriteFile(file, []byte(text), 0o600))
	h.must("vm", "create", "--name", "strict", "--policy", file)
	run("strict")
	if got := h.reach("strict", fmt.Sprintf("http,other.example,other.example,%d", w.http)); got[0] != "failed gaierror" {
		t.Errorf("what was not learned: %q", got)
	}
	// The one that learned can be put under it while it runs.
	h.must("vm", "policy", "set", "learner", file)
	run("learner")
}

// TestSpareHasThePolicy: a VM that is made from a spare is under its policy from its
// first command on.
func TestSpareHasThePolicy(t *testing.T) {
	h, w := newHome(t), newWorld(t)
	h.configure(fmt.Sprintf("%s[network]\nallow_private = [%q]\ndns_upstream = %q\n", spareConfig, w.addr+"/32", w.nameServer))
	h.must("image", "warm")
	h.awaitSpare()
	h.must("vm", "create", "--name", "dev", "--allow", fmt.Sprintf("good.example:%d", w.http))
	if began := h.must("vm", "show", "dev"); !strings.Contains(began, "began by:     spare") || !strings.Contains(began, "policy:       default deny, 1 rule") {
		t.Errorf("%s", began)
	}
	do := func(name string) string { return fmt.Sprintf("http,%s,%s,%d", name, name, w.http) }
	if got := h.reach("dev", do("good.example"), do("other.example"), do(w.addr)); got[0] != "hello from good.example" ||
		got[1] != "failed gaierror" || got[2] != "failed ConnectionRefusedError" && got[2] != "failed ConnectionResetError" {
		t.Errorf("%q", got)
	}
	// The config keeps the host's address out of the refused ranges; the command
	// line does it by itself.
	h.configure(spareConfig)
	h.awaitSpare()
	h.must("vm", "create", "--name", "literal", "--allow", fmt.Sprintf("%s:%d", w.addr, w.http))
	if got := h.reach("literal", do(w.addr), fmt.Sprintf("tls,%s,x,%d", w.addr, w.tls)); got[0] != "hello from "+w.addr || got[1] != "failed ConnectionRefusedError" {
		t.Errorf("%q", got)
	}
}

// TestPolicyOverTheSupervisorsDeath: a supervisor that dies just before it puts a new
// policy in force has a successor that is under it.
func TestPolicyOverTheSupervisorsDeath(t *testing.T) {
	h, w := newWorldHome(t)
	h.env = append(h.env, "BANGER_FAULT=policy.apply=kill-self")
	h.must("vm", "create", "--name", "dev")
	do := func(name string) string { return fmt.Sprintf("http,%s,%s,%d", name, name, w.http) }
	if got := h.reach("dev", do("other.example")); got[0] != "hello from other.example" {
		t.Fatalf("%q", got)
	}
	before := h.show("dev")
	h.run("vm", "policy", "set", "dev", "--allow", fmt.Sprintf("good.example:%d", w.http)) // the supervisor dies under it
	eventually(t, "the policy is in force", func() bool {
		var now struct {
			InForce bool     `json:"in_force"`
			Rules   []string `json:"rules"`
		}
		must(t, json.Unmarshal([]byte(h.must("vm", "policy", "show", "--json", "dev")), &now))
		return now.InForce && len(now.Rules) == 1
	})
	if after := h.show("dev"); after.SupervisorPID == before.SupervisorPID || after.VMMPID != before.VMMPID {
		t.Errorf("supervisor %d then %d, VMM %d then %d", before.SupervisorPID, after.SupervisorPID, before.VMMPID, after.VMMPID)
	}
	if got := h.reach("dev", do("good.example"), do("other.example")); got[0] != "hello from good.example" || got[1] != "failed gaierror" {
		t.Errorf("%q", got)
	}
}
