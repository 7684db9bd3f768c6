package copying

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	if err := os.Mkdir(from, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "file"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	var archive, errs bytes.Buffer
	if code := Main([]string{"pack", from}, nil, &archive, &errs); code != 0 || errs.Len() > 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	for _, args := range [][]string{{"unpack", "from", to}, {"unpack", "from", to + "/"}} {
		in := bytes.NewReader(archive.Bytes())
		if code := Main(args, in, nil, &errs); code != 0 || errs.Len() > 0 {
			t.Errorf("exit %d: %s", code, errs.String())
		}
	}
	for _, path := range []string{"file", "from/file"} {
		if data, err := os.ReadFile(filepath.Join(to, path)); err != nil || string(data) != "text" {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := Main([]string{"pack", from}, nil, &archive, &errs); code != skipped || errs.String() != "from/pipe is a pipe\n" {
		t.Errorf("exit %d: %s", code, errs.String())
	}
}

func TestFailures(t *testing.T) {
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"none: no such file":         {"pack", filepath.Join(dir, "none")},
		"the archive is cut off":     {"unpack", "x", filepath.Join(dir, "x")},
		"there is no such directory": {"unpack", "x", filepath.Join(dir, "y/") + "/"},
		"usage: ":                    {"pack"},
		"usage: pack":                {"unpack", "a", "b", "c"},
	} {
		var errs bytes.Buffer
		if code := Main(args, strings.NewReader(""), new(bytes.Buffer), &errs); code != failed || !strings.Contains(errs.String(), want) {
			t.Errorf("%q: exit %d: %s", args, code, errs.String())
		}
	}
}
