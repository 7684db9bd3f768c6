package identity

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"golang.org/x/sys/unix"
)

func TestFindNIC(t *testing.T) {
	class := t.TempDir()
	if _, err := findNIC(class); err == nil {
		t.Error("a card where there is none")
	}
	add := func(name, index string, real bool) {
		dir := filepath.Join(class, name)
		if real {
			dir = filepath.Join(dir, "device")
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(class, name, "ifindex"), []byte(index), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	add("docker0", "3\n", false)
	add("enp0s3", "2\n", true)
	if got, err := findNIC(class); err != nil || got != 2 {
		t.Errorf("%d, %v", got, err)
	}
	add("eth0", "7\n", true)
	if got, err := findNIC(class); err != nil || got != 7 {
		t.Errorf("%d, %v", got, err)
	}
}

// inNamespace makes a process of the test binary the one that TestConfigure
// started.
const inNamespace = "IDENTITY_TEST_NAMESPACE"

// TestConfigure configures one end of a pair of links, twice, in a network
// namespace of its own, and asks ip(8) what came of it.
func TestConfigure(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestConfigure$")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if uid := os.Getuid(); uid != 0 {
			cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	ip := func(args ...string) string {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	ip("link", "add", "card", "type", "veth", "peer", "name", "peer")
	conn, err := openRoute()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.close()
	index := indexOf(t, ip("-o", "link", "show", "card"))
	for range 2 {
		if err := configure(conn, index, &agentv1.Network{Address: "192.168.127.2/24", Gateway: "192.168.127.1", Mtu: 9000}); err != nil {
			t.Fatal(err)
		}
	}
	if got := ip("-o", "addr", "show", "card"); strings.Count(got, "inet 192.168.127.2/24") != 1 {
		t.Errorf("addresses %s", got)
	}
	if got := ip("-o", "link", "show", "card"); !strings.Contains(got, "mtu 9000") || !strings.Contains(got, ",UP") {
		t.Errorf("link %s", got)
	}
	if got := ip("route"); strings.Count(got, "default via 192.168.127.1 dev card") != 1 {
		t.Errorf("routes %s", got)
	}
	if err := configure(conn, index+100, &agentv1.Network{Address: "192.168.127.2/24"}); err == nil {
		t.Error("a link that is not there was configured")
	}
}

// indexOf is the number before the first colon.
func indexOf(t *testing.T, line string) int {
	t.Helper()
	number, _, _ := strings.Cut(line, ":")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestVerdict(t *testing.T) {
	ok := make([]byte, 36)
	ok[4] = unix.NLMSG_ERROR
	if err := verdict(ok); err != nil {
		t.Error(err)
	}
	refused := append([]byte(nil), ok...)
	copy(refused[unix.NLMSG_HDRLEN:], []byte{0xff, 0xff, 0xff, 0xff})
	if err := verdict(refused); err != unix.EPERM {
		t.Error(err)
	}
	for _, bad := range [][]byte{nil, ok[:19], make([]byte, 36)} {
		if err := verdict(bad); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
}
