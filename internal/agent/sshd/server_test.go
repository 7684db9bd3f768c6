package sshd

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/banger-dev/banger/internal/agent/account"
	"github.com/banger-dev/banger/internal/agent/process"
)

// TestMain is the agent's main as far as file transfer goes.
func TestMain(m *testing.M) {
	if os.Args[0] == SFTPName {
		if err := ServeSFTP(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// world is a server on a loopback port, and the files that OpenSSH's programs
// need to reach it as the host "vm".
type world struct {
	t       *testing.T
	dir     string
	home    string
	config  string
	address string
	hostKey ssh.PublicKey
	key     ssh.Signer
	manager *process.Manager
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	hostPEM, hostKey := newKey(t)
	userPEM, userKey := newKey(t)
	w.hostKey, w.key = hostKey.PublicKey(), userKey
	log := slog.New(slog.DiscardHandler)
	w.manager = process.NewManager(process.Options{Log: log, Users: w.users()})
	server, err := New(Options{
		HostKey: hostPEM, Manager: w.manager, Log: log,
		AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(userKey.PublicKey()))},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.listen(server)
	w.write("id", string(userPEM))
	_, port, _ := net.SplitHostPort(w.address)
	known := fmt.Sprintf("[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(w.hostKey))
	w.config = w.write("config", fmt.Sprintf(`Host vm
 HostName 127.0.0.1
 Port %s
 User %s
 IdentityFile %s/id
 IdentitiesOnly yes
 UserKnownHostsFile %s
 BatchMode yes
 SendEnv LANG LC_* BANGER_* SECRET_*
Host nobody
 HostName 127.0.0.1
 Port %s
 User nobody
 IdentityFile %s/id
 IdentitiesOnly yes
 UserKnownHostsFile %s
 BatchMode yes
`, port, tester, w.dir, w.write("known_hosts", known), port, w.dir, w.dir+"/known_hosts"))
	return w
}

// tester is the one who runs the tests, under a name and with a home of its own.
const tester = "tester"

// users writes the guest's users: tester, and nobody.
func (w *world) users() account.Database {
	w.t.Helper()
	w.home = filepath.Join(w.dir, "home")
	if err := os.Mkdir(w.home, 0o700); err != nil {
		w.t.Fatal(err)
	}
	w.write("passwd", fmt.Sprintf("%s:x:%d:%d::%s:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
		tester, os.Getuid(), os.Getgid(), w.home))
	return account.Database(w.dir)
}

func newKey(t *testing.T) ([]byte, ssh.Signer) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(block), signer
}

func (w *world) listen(server *Server) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.address = listener.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { server.Serve(conn) })
		}
	})
	w.t.Cleanup(func() {
		_ = listener.Close()
		server.Close()
		serving.Wait()
		w.manager.Close()
	})
}

func (w *world) write(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// command is one of OpenSSH's programs, or one that is told to use ssh.
func (w *world) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), name, append([]string{"-F", w.config}, args...)...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=")
	return cmd
}

// ssh runs ssh and returns its output and exit code.
func (w *world) ssh(args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	return run(w.t, w.command("ssh", args...))
}

func run(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	failed := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](failed); failed != nil && !ok {
		t.Fatal(failed)
	} else if ok && exit.ExitCode() < 0 {
		t.Fatalf("%v: %s", failed, err.String())
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

func must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	stdout, stderr, code := run(t, cmd)
	if code != 0 {
		t.Fatalf("%v: exit code %d: %s%s", cmd.Args, code, stdout, stderr)
	}
	return stdout
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	for script, want := range map[string]int{
		"true": 0, "exit 7": 7, "kill -9 $$": 137, "nosuchcommand": 127, "kill -TERM $$": 143,
	} {
		if _, stderr, code := w.ssh("vm", script); code != want {
			t.Errorf("%s: exit code %d, want %d: %s", script, code, want, stderr)
		}
	}
	stdout, stderr, _ := w.ssh("vm", `echo out; echo err >&2; echo "$HOME|$LOGNAME"; pwd`)
	if stdout != "out\n"+w.home+"|tester\n"+w.home+"\n" || stderr != "err\n" {
		t.Errorf("stdout %q, stderr %q", stdout, stderr)
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorld(t)
	cmd := w.command("ssh", "vm", `echo "$BANGER_X|$LC_TIME|$SECRET_X"`)
	cmd.Env = append(cmd.Env, "BANGER_X=1", "LC_TIME=C", "SECRET_X=3")
	if got := must(t, cmd); got != "1|C|\n" {
		t.Errorf("%q", got)
	}
}

func TestWhoIsRefused(t *testing.T) {
	w := newWorld(t)
	if _, stderr, code := w.ssh("-l", "no-such-user", "vm", "true"); code != 255 {
		t.Errorf("an unknown user: %d %s", code, stderr)
	}
	other, _ := newKey(t)
	w.write("id", string(other))
	if _, stderr, code := w.ssh("vm", "true"); code != 255 || !strings.Contains(stderr, "Permission denied (publickey)") {
		t.Errorf("an unknown key: %d %s", code, stderr)
	}
}

func TestBigStreams(t *testing.T) {
	w := newWorld(t)
	data := make([]byte, 32<<20)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	cmd := w.command("ssh", "vm", "cat")
	cmd.Stdin = bytes.NewReader(data)
	if got := must(t, cmd); got != string(data) {
		t.Errorf("%d bytes came back, of %d", len(got), len(data))
	}
}

func TestInteractiveShell(t *testing.T) {
	w := newWorld(t)
	cmd := w.command("ssh", "-tt", "vm")
	cmd.Env = append(cmd.Env, "TERM=vt220")
	cmd.Stdin = strings.NewReader("echo \"is $TERM $((40+2))\"; tty; exit 5\n")
	stdout, stderr, code := run(t, cmd)
	if code != 5 || !strings.Contains(stdout, "is vt220 42") || !strings.Contains(stdout, "/dev/pts/") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

// client is a connection of x/crypto/ssh, for what the programs cannot show.
func (w *world) client(name string) *ssh.Client {
	w.t.Helper()
	client, err := ssh.Dial("tcp", w.address, &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(w.key)}, HostKeyCallback: ssh.FixedHostKey(w.hostKey),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestResizeAndSignal(t *testing.T) {
	w := newWorld(t)
	session, err := w.client(tester).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := session.StdoutPipe()
	if err := session.RequestPty("xterm", 24, 80, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	if err := session.Start(`trap 'stty size' WINCH; trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done`); err != nil {
		t.Fatal(err)
	}
	until(t, out, "ready")
	if err := session.WindowChange(51, 133); err != nil {
		t.Fatal(err)
	}
	until(t, out, "51 133")
	// The shell waits for its sleep, which the signal to the group ends too.
	if err := session.Signal(ssh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*ssh.ExitError](session.Wait())
	if !ok || exit.ExitStatus() != 9 {
		t.Errorf("%v", exit)
	}
}

func TestExitSignal(t *testing.T) {
	w := newWorld(t)
	session, err := w.client(tester).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	exit, ok := errors.AsType[*ssh.ExitError](session.Run("kill -KILL $$"))
	if !ok || exit.Signal() != "KILL" || exit.ExitStatus() != 137 {
		t.Errorf("%v", exit)
	}
}

func until(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(seen.String(), text) {
		n, err := r.Read(buf)
		seen.Write(buf[:n])
		if err != nil {
			t.Fatalf("%v, before %q: %q", err, text, seen.String())
		}
	}
}

func TestClientThatLeaves(t *testing.T) {
	w := newWorld(t)
	client := w.client(tester)
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(w.dir, "hung-up")
	if err := syscall.Mkfifo(seen, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := session.StdoutPipe()
	if err := session.Start(`trap 'echo yes >` + seen + `; exit' HUP; echo ready; while :; do sleep 0.01; done`); err != nil {
		t.Fatal(err)
	}
	until(t, out, "ready")
	_ = client.Close()
	if text, err := os.ReadFile(seen); err != nil || string(text) != "yes\n" {
		t.Errorf("%q %v", text, err)
	}
}

func TestTooManyChannels(t *testing.T) {
	w := newWorld(t)
	client := w.client(tester)
	var err error
	for range maxChannels + 1 {
		if _, err = client.NewSession(); err != nil {
			break
		}
	}
	open, ok := errors.AsType[*ssh.OpenChannelError](err)
	if !ok || open.Reason != ssh.ResourceShortage {
		t.Errorf("%v", err)
	}
}

func TestBadKeys(t *testing.T) {
	good, _ := newKey(t)
	log := slog.New(slog.DiscardHandler)
	if _, err := New(Options{HostKey: []byte("none"), Log: log}); err == nil {
		t.Error("a host key that is none")
	}
	if _, err := New(Options{HostKey: good, AuthorizedKeys: []string{"ssh-ed25519 none"}, Log: log}); err == nil {
		t.Error("an authorised key that is none")
	}
}
