package sshd

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// tree makes files to copy and returns their directory.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{3})
	for i, name := range []string{"a", "b with space", "sub/c"} {
		data := make([]byte, i*1_500_000)
		_, _ = random.Read(data)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func same(t *testing.T, a, b string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "diff", "-r", a, b).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCopyFiles(t *testing.T) {
	w := newWorld(t)
	from := tree(t)
	for name, args := range map[string][]string{
		"scp":        {"-q", "-p", "-r"},
		"scp-legacy": {"-O", "-q", "-p", "-r"},
	} {
		there, back := filepath.Join(w.dir, name), filepath.Join(w.dir, name+"-back")
		must(t, w.command("scp", append(args, from, "vm:"+there)...))
		same(t, from, there)
		must(t, w.command("scp", append(args, "vm:"+there, back)...))
		same(t, from, back)
	}
}

func TestRsync(t *testing.T) {
	w := newWorld(t)
	from, to := tree(t), filepath.Join(w.dir, "to")
	if err := os.MkdirAll(filepath.Join(to, "extra"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "rsync", "-a", "--delete", "-e", "ssh -F "+w.config, from+"/", "vm:"+to+"/")
	must(t, cmd)
	same(t, from, to)
}

func TestSFTP(t *testing.T) {
	w := newWorld(t)
	from := tree(t)
	to := filepath.Join(w.dir, "to")
	cmd := w.command("sftp", "-b", "-", "vm")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(
		"pwd\nmkdir %[1]s\nput -p \"%[2]s/b with space\" %[1]s/b\nchmod 600 %[1]s/b\nrename %[1]s/b %[1]s/c\nls -l %[1]s\n", to, from))
	out := must(t, cmd)
	if !strings.Contains(out, "working directory: "+w.home) {
		t.Errorf("%s", out)
	}
	same(t, filepath.Join(from, "b with space"), filepath.Join(to, "c"))
}

// TestSFTPOfAnotherUser shows that file transfer has its user's rights.
func TestSFTPOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // an ordinary user cannot become another
	}
	w := newWorld(t)
	secret := w.write("secret", "text")
	cmd := w.command("sftp", "-b", "-", "nobody")
	cmd.Stdin = strings.NewReader("get " + secret + " /dev/null\n")
	if out, stderr, code := run(t, cmd); code == 0 || !strings.Contains(strings.ToLower(stderr), "permission denied") &&
		!strings.Contains(stderr, "not found") {
		t.Errorf("%d %s %s", code, out, stderr)
	}
}

// echo serves one upper-casing connection after the other.
func echo(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(conn)
			_, _ = conn.Write(bytes.ToUpper(all))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener
}

// ask sends, closes its half, and returns the answer.
func ask(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(all)
}

func TestForwardFromTheClient(t *testing.T) {
	w := newWorld(t)
	target := echo(t).Addr().String()
	cmd := w.command("ssh", "-W", target, "vm")
	cmd.Stdin = strings.NewReader("over stdio")
	if got := must(t, cmd); got != "OVER STDIO" {
		t.Errorf("%q", got)
	}
	socket := filepath.Join(w.dir, "local.sock")
	cmd = w.command("ssh", "-L", socket+":"+target, "vm", "echo ready; cat")
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, stdout, "ready")
	for i := range 20 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, conn, fmt.Sprintf("round %d", i)); got != fmt.Sprintf("ROUND %d", i) {
			t.Errorf("%q", got)
		}
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestForwardToAClosedPort(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	_ = listener.Close()
	if _, stderr, code := w.ssh("-W", target, "vm"); code != 255 || !strings.Contains(stderr, "refused") {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestForwardFromTheGuest(t *testing.T) {
	w := newWorld(t)
	target := echo(t).Addr().String()
	cmd := w.command("ssh", "-R", "0:"+target, "vm", "echo ready; cat")
	stdin, _ := cmd.StdinPipe()
	stderr, _ := cmd.StderrPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(line, "Allocated port %d for", &port); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, conn, "from the guest"); got != "FROM THE GUEST" {
		t.Errorf("%q", got)
	}
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRemoteForwardIsCancelled(t *testing.T) {
	w := newWorld(t)
	client := w.client(tester)
	listener, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		_ = conn.Close()
		t.Error("the guest still listens")
	}
}

func TestForwardASocket(t *testing.T) {
	if os.Getuid() != 0 {
		return // for root only
	}
	w := newWorld(t)
	path := filepath.Join(w.dir, "guest.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	conn, err := w.client(tester).Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, conn, "socket"); got != "socket" {
		t.Errorf("%q", got)
	}
	if _, err := w.client("nobody").Dial("unix", path); err == nil {
		t.Error("an ordinary user reached a socket with root's rights")
	}
}

func TestAgentForwarding(t *testing.T) {
	w := newWorld(t)
	if out, _, _ := w.ssh("vm", `echo "socket=$SSH_AUTH_SOCK"`); out != "socket=\n" {
		t.Errorf("not asked for: %q", out)
	}
	ring := agent.NewKeyring()
	private, err := ssh.ParseRawPrivateKey([]byte(read(t, filepath.Join(w.dir, "id"))))
	if err != nil {
		t.Fatal(err)
	}
	if err := ring.Add(agent.AddedKey{PrivateKey: private, Comment: "the client's key"}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(w.dir, "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, conn) }()
		}
	}()
	cmd := w.command("ssh", "-A", "vm", `stat -c "%a %u" "$SSH_AUTH_SOCK"; dirname "$SSH_AUTH_SOCK"; ssh-add -l`)
	cmd.Env = append(cmd.Env, "SSH_AUTH_SOCK="+socket)
	lines := strings.Split(must(t, cmd), "\n")
	if lines[0] != fmt.Sprintf("600 %d", os.Getuid()) || !strings.Contains(lines[2], "the client's key") {
		t.Errorf("%q", lines)
	}
	if _, err := os.Stat(lines[1]); !os.IsNotExist(err) {
		t.Errorf("the socket's directory is left: %v", err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func FuzzModes(f *testing.F) {
	f.Add("\x01\x00\x00\x00\x03\x00")
	f.Fuzz(func(t *testing.T, encoded string) {
		if modes := parseModes(encoded); len(modes) > 160 {
			t.Errorf("%d modes", len(modes))
		}
	})
}
