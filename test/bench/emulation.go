package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// serverScript is a small server, and one who asks it: it ends when the answer
// has come.
const serverScript = `import http.server, threading, urllib.request
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
threading.Thread(target=server.handle_request).start()
answer = urllib.request.urlopen("http://127.0.0.1:%d/" % server.server_port).read()
assert answer == b"hello", answer
`

// server measures the first answer of an HTTP server in Python, from nothing: the
// start of the VM is in it.
func (b *bench) server(ctx context.Context) ([]row, error) {
	if err := b.home.run(ctx, "image", "warm"); err != nil {
		return nil, err
	}
	container := yard{name: "podman run, the same"}
	p, err := b.newPodman(ctx)
	if container.absent = err; err == nil {
		container.probe = program(p.run("python3", "-c", serverScript)...)
	}
	host := yard{name: "the host itself", probe: program("python3", "-c", serverScript)}
	r := row{Name: "first HTTP answer of a server in Python, vm run --rm", Unit: "ms"}
	return only(r.measured(ctx, b.n, b.home.timed("vm", "run", "--rm", "--", "python3", "-c", serverScript), container, host))
}

// sources is how many files are compiled.
const sources = 200

// compile measures how long the Go compiler takes for a program of 200 files, in
// a running VM and on the host. The compiler and the program are put there
// before: the image has none.
func (b *bench) compile(ctx context.Context) ([]row, error) {
	tools, err := output(exec.CommandContext(ctx, "go", "env", "GOTOOLDIR"))
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.home.dir, "compile")
	if err := writeProgram(dir); err != nil {
		return nil, err
	}
	compiler, err := os.ReadFile(filepath.Join(tools, "compile"))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "compile"), compiler, 0o755); err != nil {
		return nil, err
	}
	if err := b.send(ctx, dir, "/root/compile"); err != nil {
		return nil, err
	}
	command := func(dir string) []string {
		return []string{"sh", "-c", "cd " + dir + " && ./compile -p main -o out.a *.go"}
	}
	guest := b.home.timed(append([]string{"vm", "exec", b.vm.Name, "--"}, command("/root/compile")...)...)
	r := row{Name: fmt.Sprintf("compile of a %d-file Go program in a running VM", sources), Unit: "ms"}
	return only(r.measured(ctx, few(b.n), guest, yard{name: "the host itself", probe: program(command(dir)...)}))
}

// writeProgram makes the program. It imports nothing: only the compiler is
// measured.
func writeProgram(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	const file = `package main

type record%[1]d struct{ key, value int; name string; next *record%[1]d }

func (r *record%[1]d) insert(key int, name string) *record%[1]d {
	if r == nil || key < r.key {
		return &record%[1]d{key: key, value: key * %[1]d, name: name, next: r}
	}
	r.next = r.next.insert(key, name)
	return r
}

func sum%[1]d(limit int) (total int) {
	seen := map[string][]int{}
	var list *record%[1]d
	for i := 0; i < limit; i++ {
		name := string(rune('a' + i%%26)) + "%[1]d"
		seen[name] = append(seen[name], i)
		list = list.insert(i*7%%13, name)
	}
	for r := list; r != nil; r = r.next {
		switch n := len(seen[r.name]); {
		case n > 3:
			total += n * r.value
		case n == 0:
			total--
		default:
			total ^= r.key
		}
	}
	return total
}
`
	var calls strings.Builder
	for i := range sources - 1 {
		fmt.Fprintf(&calls, "\tprintln(sum%d(100))\n", i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%d.go", i)), fmt.Appendf(nil, file, i), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {\n"+calls.String()+"}\n"), 0o644)
}

// send copies the files of a directory into the VM of this run.
func (b *bench) send(ctx context.Context, from, to string) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.AddFS(os.DirFS(from)), w.Close()); err != nil {
		return err
	}
	cmd := b.home.command(ctx, "vm", "exec", b.vm.Name, "--", "sh", "-c", "mkdir -p "+to+" && tar xf - -C "+to)
	cmd.Stdin = &archive
	return finish(cmd)
}
