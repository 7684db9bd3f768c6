package vm

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSSH: ssh, scp, sftp, rsync and port forwarding by name, with the printed
// config and nothing else.
func TestSSH(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "door")
	config := filepath.Join(h.dir, "ssh_config")
	must(t, os.WriteFile(config, []byte(h.must("ssh-config")+"\n"), 0o600))
	tree := filepath.Join(h.dir, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "sub", "file"), []byte("content\n"), 0o640))

	h.tool("echo hello; exit 3", 3, "hello\n", "ssh", "-F", config, "door.vm", "echo hello; exit 3")
	h.tool("scp there", 0, "", "scp", "-qr", "-F", config, tree, "door.vm:copied")
	h.tool("scp back", 0, "", "scp", "-qr", "-F", config, "door.vm:copied", filepath.Join(h.dir, "back"))
	if got, _ := os.ReadFile(filepath.Join(h.dir, "back", "sub", "file")); string(got) != "content\n" {
		t.Errorf("scp brought %q", got)
	}
	batch := filepath.Join(h.dir, "batch")
	must(t, os.WriteFile(batch, []byte("put "+filepath.Join(tree, "sub", "file")+" put\nrename put got\nls -l got\n"), 0o600))
	if out := h.tool("sftp", 0, "*", "sftp", "-q", "-b", batch, "-F", config, "door.vm"); !strings.Contains(out, "got") {
		t.Errorf("sftp: %q", out)
	}
	h.tool("rsync", 0, "", "rsync", "-a", "--delete", "-e", "ssh -F "+config, tree+"/", "door.vm:tree/")
	must(t, os.Remove(filepath.Join(tree, "sub", "file")))
	h.tool("rsync --delete", 0, "", "rsync", "-a", "--delete", "-e", "ssh -F "+config, tree+"/", "door.vm:tree/")
	h.tool("what rsync left", 0, "tree\ntree/sub\n", "ssh", "-F", config, "door.vm", "find tree | sort")
	h.forward(config)
	if r := h.run("vm", "ssh", "door", "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("vm ssh: exit %d\n%s", r.code, r.stderr)
	}
}

// tool runs a program of the host and checks its exit code and, unless it is
// "*", its stdout.
func (h *home) tool(what string, code int, stdout string, argv ...string) string {
	h.t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = h.env, h.dir
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	r := h.finish(cmd, &out, &stderr)
	if r.code != code || stdout != "*" && r.stdout != stdout {
		h.t.Errorf("%s: exit %d, stdout %q\n%s", what, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// forward reaches a server in the guest through ssh -L.
func (h *home) forward(config string) {
	h.t.Helper()
	h.must("vm", "exec", "door", "--", "sh", "-c",
		"mkdir -p /srv/www && echo served >/srv/www/page && (setsid python3 -m http.server -d /srv/www 8000 >/dev/null 2>&1 </dev/null &)")
	socket := filepath.Join(h.dir, "fwd")
	cmd := exec.Command("ssh", "-F", config, "-N", "-o", "ExitOnForwardFailure=yes", "-L", socket+":localhost:8000", "door.vm")
	cmd.Env, cmd.Stderr = h.env, os.Stderr
	must(h.t, cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	var page string
	eventually(h.t, "the forwarded server answers", func() bool {
		page = get(socket)
		return page != ""
	})
	if !strings.HasSuffix(page, "served\n") {
		h.t.Errorf("through ssh -L: %q", page)
	}
}

func get(socket string) string {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return ""
	}
	defer conn.Close()
	io.WriteString(conn, "GET /page HTTP/1.0\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	return string(answer)
}
