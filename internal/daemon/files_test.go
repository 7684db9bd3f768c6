package daemon

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/banger-dev/banger/internal/layout"
)

func TestConsoleTail(t *testing.T) {
	dir := layout.Instance(t.TempDir())
	if got := consoleTail(dir); got != "" {
		t.Errorf("no console: %q", got)
	}
	os.WriteFile(dir.VMMLog(), []byte("qemu: no such disk\n"), 0o600)
	if got := consoleTail(dir); got != "qemu: no such disk" {
		t.Errorf("no console, but a VMM's log: %q", got)
	}
	var text strings.Builder
	text.WriteString("of an earlier boot\n" + layout.BootMark + "now\n")
	for i := range 20 {
		fmt.Fprintf(&text, "line %d\r\n", i)
	}
	text.WriteString(strings.Repeat("é", 400) + "\xff\n")
	os.WriteFile(dir.Console(), []byte(text.String()), 0o600)
	lines := strings.Split(consoleTail(dir), "\n")
	if len(lines) != tailLines || lines[0] != "line 6" || len(lines[14]) > tailWidth+len("…") {
		t.Errorf("%q", lines)
	}
	os.WriteFile(dir.Console(), []byte("of an earlier boot\n"+layout.BootMark+"now\n"), 0o600)
	if got := consoleTail(dir); strings.Contains(got, "earlier") {
		t.Errorf("an earlier boot is shown: %q", got)
	}
}

func FuzzConsoleTail(f *testing.F) {
	f.Add([]byte("a\r\nb\xff\x1b[2J\n" + layout.BootMark))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := layout.Instance(t.TempDir())
		if err := os.WriteFile(dir.Console(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got := consoleTail(dir)
		if !utf8.ValidString(got) || strings.Count(got, "\n") >= tailLines || len(got) > tailLines*(tailWidth+4) {
			t.Errorf("%q", got)
		}
	})
}

// What lies in an instance directory may be anything after a crash.
func FuzzInstanceFiles(f *testing.F) {
	f.Add([]byte(`{"reason":"x","failed":true,"pid":1,"start_time":1,"boot_id":"b"}`))
	f.Add([]byte(`{"id":"0","name":"a","boot":"AA=="}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := layout.Instance(t.TempDir())
		for _, path := range []string{dir.Exit(), dir.VMM(), dir.Spec()} {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		readExit(dir)
		if vmm, err := readVMM(dir); err == nil {
			vmm.alive()
		}
		if spec, err := readSpec(dir); err == nil && spec == nil {
			t.Error("no spec, no error")
		}
	})
}
