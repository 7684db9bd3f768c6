package identity

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func read(t *testing.T, etc, name string) string {
	t.Helper()
	path := filepath.Join(etc, name)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Mode().IsRegular() {
		t.Errorf("%s is %v", name, info.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestNamesKeepWhatIsNotOurs(t *testing.T) {
	etc := t.TempDir()
	if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte("127.0.0.1 localhost\n10.1.1.1 mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"otter", "otter", "heron"} {
		if err := writeNames(etc, name); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, etc, "hostname"); got != "heron\n" {
		t.Errorf("hostname %q", got)
	}
	want := "127.0.0.1 localhost\n10.1.1.1 mine\n127.0.1.1\theron\t# banger\n"
	if got := read(t, etc, "hosts"); got != want {
		t.Errorf("hosts %q", got)
	}
}

func TestNamesInABareImage(t *testing.T) {
	etc := filepath.Join(t.TempDir(), "etc")
	if err := writeNames(etc, "otter"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, etc, "hosts"); !strings.HasPrefix(got, "127.0.0.1\tlocalhost\n") || !strings.Contains(got, "otter") {
		t.Errorf("hosts %q", got)
	}
}

func TestResolvConfReplacesALink(t *testing.T) {
	etc, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "stub")
	if err := os.WriteFile(elsewhere, []byte("stub"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(etc, "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	if err := writeResolvConf(etc, []string{"192.168.127.1", "fe80::1"}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, etc, "resolv.conf"); got != "nameserver 192.168.127.1\nnameserver fe80::1\n" {
		t.Errorf("resolv.conf %q", got)
	}
	if got, _ := os.ReadFile(elsewhere); string(got) != "stub" {
		t.Errorf("the link's target became %q", got)
	}
	if err := writeResolvConf(etc, []string{"1.1.1.1\noptions evil"}); err == nil {
		t.Error("an address with a newline was taken")
	}
	left, err := os.ReadDir(etc)
	if err != nil || len(left) != 1 {
		t.Errorf("left: %v %v", left, err)
	}
}

func TestMachineID(t *testing.T) {
	etc := t.TempDir()
	id := strings.Repeat("0f", 16)
	if err := writeMachineID(etc, id); err != nil {
		t.Fatal(err)
	}
	if got := read(t, etc, "machine-id"); got != id+"\n" {
		t.Errorf("machine-id %q", got)
	}
	for _, bad := range []string{"short", strings.Repeat("0F", 16), strings.Repeat("0g", 16), id + "\n"} {
		if err := writeMachineID(etc, bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestHostname(t *testing.T) {
	for name, want := range map[string]bool{
		"otter": true, "a": true, "Quiet-Otter.vm": true, strings.Repeat("a", 64): true,
		"": false, "-a": false, "a-": false, ".": false, "a b": false, "a\n": false, "é": false,
		strings.Repeat("a", 65): false,
	} {
		if got := validHostname(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// FuzzHosts proves that a hosts file of any content keeps its lines and gets
// one of ours.
func FuzzHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost\n")
	f.Add("x # banger\n\n\r\n# banger")
	f.Fuzz(func(t *testing.T, hosts string) {
		once := withName(hosts, "otter")
		if again := withName(once, "otter"); again != once {
			t.Errorf("%q became %q", once, again)
		}
		if !strings.HasSuffix(once, "127.0.1.1\totter\t# banger\n") {
			t.Errorf("%q", once)
		}
	})
}

// TestRewrite: a small file of one name is written in place, and nothing else.
func TestRewrite(t *testing.T) {
	etc := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(etc, name)
		if err := os.WriteFile(path, []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
		return path
	}
	path := write("plain", "a longer text\n")
	before, _ := os.Stat(path)
	for _, text := range []string{"short\n", "short\n", "", "and longer again, yes\n"} {
		if done, err := rewrite(path, text); !done || err != nil {
			t.Fatalf("%q: %v, %v", text, done, err)
		}
		if got := read(t, etc, "plain"); got != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
		t.Errorf("the file is another: %v, %v", after, err)
	}
	write("linked", "x")
	write("large", strings.Repeat("x", maxRewritten+1))
	for _, err := range []error{
		os.Link(filepath.Join(etc, "linked"), filepath.Join(etc, "other")),
		os.Symlink("plain", filepath.Join(etc, "symlink")), unix.Mkfifo(filepath.Join(etc, "pipe"), 0o600),
		os.Mkdir(filepath.Join(etc, "directory"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"linked", "large", "symlink", "pipe", "directory", "none"} {
		if done, err := rewrite(filepath.Join(etc, name), "text"); done || err != nil {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
}
