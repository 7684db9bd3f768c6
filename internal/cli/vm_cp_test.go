package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"github.com/banger-dev/banger/internal/treetar"
)

// copyGuest is the guest's end of copies, over the directory root.
func copyGuest(t *testing.T, root string) func(*agentv1.ExecStart, *stream.Reader, net.Conn) {
	return func(start *agentv1.ExecStart, frames *stream.Reader, conn net.Conn) {
		send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
		code := int32(0)
		var err error
		switch argv := start.Argv; {
		case start.Builtin != "copy":
			code = 126
		case argv[0] == "pack":
			_, err = new(treetar.Packer).Pack(t.Context(), frameWriter{conn}, root+"/"+argv[1])
		default:
			read, write := io.Pipe()
			go func() {
				for {
					kind, payload, err := frames.Next()
					if err != nil || kind == stream.StdinEOF {
						write.Close()
						return
					}
					write.Write(payload)
				}
			}()
			path := filepath.Join(root, argv[len(argv)-1])
			if strings.HasSuffix(argv[len(argv)-1], "/") {
				path += "/"
			}
			u := treetar.Unpacker{Owners: slices.Contains(argv, "--owners") && os.Getuid() == 0}
			_, err = u.Unpack(t.Context(), read, path, argv[len(argv)-2])
			read.CloseWithError(io.ErrClosedPipe)
		}
		if err != nil {
			code = 1
			conn.Write(stream.Append(nil, stream.Stderr, []byte(err.Error()+"\n")))
		}
		send(conn, stream.Exit, &agentv1.ExecExit{Code: code})
		io.Copy(io.Discard, conn)
	}
}

// frameWriter is a guest's stdout.
type frameWriter struct{ conn net.Conn }

func (w frameWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), stream.MaxPayload)
		if _, err := w.conn.Write(stream.Append(nil, stream.Stdout, rest[:n])); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func copyWorld(t *testing.T, stdin string) (w *world, guest, host string) {
	t.Helper()
	d := newFakeDaemon(t)
	d.add("dev", "running")
	guest, host = t.TempDir(), t.TempDir()
	d.guest = copyGuest(t, guest)
	return newWorld(t, d, stdin), guest, host
}

func content(t *testing.T, path, want string) {
	t.Helper()
	if data, err := os.ReadFile(path); err != nil || string(data) != want {
		t.Errorf("%s is %q, %v; want %q", path, data, err, want)
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestCpIntoAVM(t *testing.T) {
	w, guest, host := copyWorld(t, "")
	put(t, filepath.Join(host, "tree/sub/file"), strings.Repeat("text", 100_000))
	w.expect(t, w.run("cp", filepath.Join(host, "tree"), "dev:"), 0, "", "copied: 3 entries, 390.6K")
	content(t, filepath.Join(guest, "tree/sub/file"), strings.Repeat("text", 100_000))
	w, guest, host = copyWorld(t, "")
	put(t, filepath.Join(host, "file"), "new")
	w.expect(t, w.run("vm", "cp", "-q", filepath.Join(host, "file"), "dev:other"), 0, "", "")
	content(t, filepath.Join(guest, "other"), "new")
	if w.err.Len() > 0 {
		t.Errorf("-q: %s", w.err.String())
	}
}

func TestCpOutOfAVM(t *testing.T) {
	w, guest, host := copyWorld(t, "")
	put(t, filepath.Join(guest, "etc/conf"), "setting")
	w.expect(t, w.run("cp", "dev:etc", host), 0, "", "copied: 2 entries, 7B")
	content(t, filepath.Join(host, "etc/conf"), "setting")
	w.run("cp", "--json", "dev:etc/.", filepath.Join(host, "new"))
	content(t, filepath.Join(host, "new/conf"), "setting")
	if !strings.Contains(w.out.String(), `"bytes": 7`) {
		t.Errorf("%s", w.out.String())
	}
}

func TestCpOfStreams(t *testing.T) {
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	tw.WriteHeader(&tar.Header{Name: "any/name", Typeflag: tar.TypeReg, Size: 4, Mode: 0o600})
	io.WriteString(tw, "text")
	tw.Close()
	w, guest, _ := copyWorld(t, archive.String())
	w.expect(t, w.run("cp", "-a", "-", "dev:."), 0, "", "")
	content(t, filepath.Join(guest, "any/name"), "text")
	w.expect(t, w.run("cp", "dev:any", "-"), 0, "", "")
	tr := tar.NewReader(strings.NewReader(w.out.String()))
	var names []string
	for h, err := tr.Next(); err == nil; h, err = tr.Next() {
		names = append(names, h.Name)
	}
	if !slices.Equal(names, []string{"any/", "any/name"}) {
		t.Errorf("%v", names)
	}
}

func TestCpFails(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"dev:none", "HOST"}, 1, `vm "dev": none: no such file`},
		{[]string{"HOST/none", "dev:"}, 3, "none: no such file"},
		{[]string{"HOST", "dev:none/"}, 1, "there is no such directory"},
		{[]string{"dev:", "HOST/none/x"}, 3, "no such file"},
		{[]string{"a", "b"}, 2, "neither"},
		{[]string{"a:x", "b:y"}, 2, "both"},
		{[]string{"./a:b", "c"}, 2, "neither"},
		{[]string{"-a", "dev:x", "HOST"}, 2, "-a keeps owners"},
		{[]string{"--json", "dev:x", "-"}, 2, "--json and a tar stream"},
		{[]string{"other:x", "HOST"}, 3, "does not exist"},
	} {
		w, _, host := copyWorld(t, "")
		for i := range c.args {
			c.args[i] = strings.Replace(c.args[i], "HOST", host, 1)
		}
		w.expect(t, w.run(append([]string{"cp"}, c.args...)...), c.code, "", c.text)
	}
	w, _, _ := copyWorld(t, "")
	w.app.IO.OutTTY = true
	w.expect(t, w.run("cp", "dev:x", "-"), 2, "", "would go to a terminal")
}

// A guest that sends what was not asked for gets nothing of it written.
func TestCpFromAHostileGuest(t *testing.T) {
	host := t.TempDir()
	d := newFakeDaemon(t)
	d.add("dev", "running")
	d.guest = func(_ *agentv1.ExecStart, _ *stream.Reader, conn net.Conn) {
		send(conn, stream.Started, &agentv1.ExecStarted{Pid: 1})
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		tw.WriteHeader(&tar.Header{Name: "tree/", Typeflag: tar.TypeDir, Mode: 0o755})
		tw.WriteHeader(&tar.Header{Name: ".bashrc", Typeflag: tar.TypeReg, Size: 4})
		io.WriteString(tw, "evil")
		tw.Close()
		frameWriter{conn}.Write(b.Bytes())
		for { // and does not end
			if _, err := (frameWriter{conn}).Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}
	w := newWorld(t, d, "")
	w.expect(t, w.run("cp", "dev:tree", host), 1, "", `.bashrc: a name that is not below "tree"`)
	if _, err := os.Stat(filepath.Join(host, ".bashrc")); err == nil {
		t.Error("it was written")
	}
}
