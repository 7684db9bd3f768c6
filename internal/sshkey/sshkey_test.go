package sshkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	banger "github.com/banger-dev/banger"
)

func TestEnsureMakesOneKeyOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssh", "id_ed25519")
	lines := make([]string, 8)
	var wg sync.WaitGroup
	for i := range lines {
		wg.Go(func() {
			line, err := Ensure(path)
			if err != nil {
				t.Error(err)
			}
			lines[i] = line
		})
	}
	wg.Wait()
	for _, line := range lines {
		if line != lines[0] || !strings.HasPrefix(line, "ssh-ed25519 AAAA") {
			t.Errorf("%q and %q", line, lines[0])
		}
	}
	for file, mode := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700, path + ".pub": 0o644} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEnsureUsesWhatIsThere(t *testing.T) {
	_, private, _ := ed25519.GenerateKey(rand.Reader)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "locked")
	os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
	if line, err := Ensure(path); err != nil || !strings.HasPrefix(line, "ssh-ed25519 ") {
		t.Errorf("a key with a passphrase: %q, %v", line, err)
	}
	os.WriteFile(path, []byte("rubbish"), 0o600)
	if _, err := Ensure(path); banger.CodeOf(err) != banger.CodeUnavailable {
		t.Errorf("rubbish: %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "rubbish" {
		t.Error("the user's file was changed")
	}
}

func TestKnownHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "known_hosts")
	key, err := Generate("dev")
	if err != nil {
		t.Fatal(err)
	}
	hosts := []Host{{ID: "0123", Name: "dev", Key: key}, {ID: "45", Name: "bad", Key: []byte("x")}}
	if err := WriteKnownHosts(path, hosts); err != nil {
		t.Fatal(err)
	}
	public, _ := Public(key)
	if text, _ := os.ReadFile(path); string(text) != "dev.vm "+public+"\n0123.vm "+public+"\n" {
		t.Errorf("%s", text)
	}
}

func FuzzPublic(f *testing.F) {
	key, _ := Generate("seed")
	f.Add(key)
	f.Fuzz(func(t *testing.T, data []byte) {
		if line, err := Public(data); err == nil && strings.ContainsAny(line, "\n\r") {
			t.Errorf("%q has line breaks", line)
		}
	})
}
