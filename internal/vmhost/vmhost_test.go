package vmhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program writes a shell script that stands for banger-vm.
func program(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "banger-vm")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAsk(t *testing.T) {
	path := program(t, `printf '{"qemu":{"path":"/q","version":"%s"},"kvm":{"usable":true,"reason":"r"},"accel":"kvm","confinement":["seccomp"],"more":1}' "$*"`)
	found, err := Ask(t.Context(), Question{Supervisor: path, QEMU: "/q", Kernel: "/k", Initrd: "/i"})
	if err != nil {
		t.Fatal(err)
	}
	if found.QEMU.Path != "/q" || !found.KVM.Usable || found.Accel != "kvm" || len(found.Confinement) != 1 {
		t.Errorf("%+v", found)
	}
	if found.QEMU.Version != "probe --json --qemu /q --kernel /k --initrd /i" {
		t.Errorf("asked with: %s", found.QEMU.Version)
	}
}

func TestAskFails(t *testing.T) {
	for script, words := range map[string]string{
		"echo first >&2; echo banger-vm: no disk >&2; exit 1": "no disk",
		"echo nonsense":             "answer",
		"head -c 2000000 /dev/zero": "too long",
		"kill -9 $$":                "killed",
	} {
		_, err := Ask(t.Context(), Question{Supervisor: program(t, script)})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", script, err)
		}
	}
	if _, err := Ask(t.Context(), Question{Supervisor: "/no/such/program"}); err == nil {
		t.Error("no program, no error")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"qemu":{"path":"/q"},"accel":"tcg"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decode(data); err == nil && len(data) > maxProbe {
			t.Error("a long answer was taken")
		}
	})
}
