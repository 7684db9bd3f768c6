package vmhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestFingerprintIsAskedOnce(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	vm := program(t, `echo x >> `+count+`; echo "$*"`)
	qemu := program(t, "exit 0")
	m := Machine{Supervisor: vm, QEMU: qemu, Driver: "qemu", Accel: "tcg"}
	var f Fingerprints
	ask := func(m Machine, times int) {
		t.Helper()
		got, err := f.Of(t.Context(), m)
		if want := "fingerprint --driver qemu --accel " + m.Accel + " --qemu " + qemu; err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
		if data, _ := os.ReadFile(count); len(data) != 2*times {
			t.Errorf("asked %d times, want %d", len(data)/2, times)
		}
	}
	ask(m, 1)
	ask(m, 1)
	m.Accel = "kvm"
	ask(m, 2)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(qemu, later, later); err != nil {
		t.Fatal(err)
	}
	ask(m, 3)
}

func TestFingerprintFails(t *testing.T) {
	for script, words := range map[string]string{
		"echo banger-vm: no such driver >&2; exit 1": "no such driver",
		"echo a; echo b":          "one line",
		"exit 0":                  "one line",
		"head -c 10000 /dev/zero": "one line",
	} {
		path := program(t, script)
		var f Fingerprints
		_, err := f.Of(t.Context(), Machine{Supervisor: path, QEMU: path})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", script, err)
		}
	}
	var f Fingerprints
	if _, err := f.Of(t.Context(), Machine{Supervisor: "/no/such/program"}); err == nil {
		t.Error("no program, no error")
	}
}
