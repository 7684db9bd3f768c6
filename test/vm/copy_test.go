package vm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCopy: trees, files with holes and streams go both ways as they are.
func TestCopy(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "copy")
	host := t.TempDir()
	tree := filepath.Join(host, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "deep/er"), 0o755))
	for i := range 200 {
		must(t, os.WriteFile(filepath.Join(tree, "deep", fmt.Sprint("file", i)), []byte(strings.Repeat("x", i*17)), 0o640))
	}
	must(t, os.Symlink("../deep/file1", filepath.Join(tree, "deep/er/link")))
	must(t, os.Link(filepath.Join(tree, "deep/file2"), filepath.Join(tree, "deep/er/hard")))
	when := time.Unix(1_000_000_000, 123_000_000)
	must(t, os.Chtimes(filepath.Join(tree, "deep/file3"), when, when))
	must(t, os.Chtimes(filepath.Join(tree, "deep"), when, when))
	sparse := filepath.Join(tree, "sparse")
	must(t, os.WriteFile(sparse, []byte("begin"), 0o600))
	must(t, os.Truncate(sparse, 512<<20))

	h.must("vm", "cp", tree, "copy:/srv")
	got := h.must("vm", "exec", "copy", "--", "sh", "-c",
		`cd /srv/tree && find . | wc -l && stat -c '%s %a %u %Y' deep/file3 && stat -c %Y deep && readlink deep/er/link && stat -c %h deep/er/hard && stat -c %s sparse && du -m sparse | cut -f1`)
	if got != "206\n51 640 0 1000000000\n1000000000\n../deep/file1\n2\n536870912\n1" {
		t.Errorf("in the guest: %q", got)
	}
	h.must("vm", "cp", "copy:/srv/tree", filepath.Join(host, "back"))
	if out, err := exec.Command("diff", "-r", "--no-dereference", tree, filepath.Join(host, "back")).CombinedOutput(); err != nil {
		t.Errorf("what came back differs: %s", out)
	}
	info, err := os.Stat(filepath.Join(host, "back/sparse"))
	must(t, err)
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks > 1000 {
		t.Errorf("%d blocks of a file that is a hole", blocks)
	}
	if info, err = os.Stat(filepath.Join(host, "back/deep")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("the time of a directory is %v, %v", info.ModTime(), err)
	}

	var archive bytes.Buffer
	out := h.command("vm", "cp", "copy:/etc/hostname", "-")
	out.Stdout = &archive
	must(t, out.Run())
	in := h.command("vm", "cp", "-u", "nobody", "-", "copy:/tmp")
	in.Stdin = &archive
	must(t, in.Run())
	if got := h.must("vm", "exec", "copy", "--", "sh", "-c", "cat /tmp/hostname; stat -c %U /tmp/hostname"); got != "copy\nnobody" {
		t.Errorf("by a stream: %q", got)
	}
	if r := h.run("vm", "cp", "copy:/none", host); r.code != 1 || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
	if r := h.run("vm", "cp", tree, "copy:/proc/none/"); r.code != 1 {
		t.Errorf("exit %d, %s", r.code, r.stderr)
	}
}
