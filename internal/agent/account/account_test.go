package account

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const passwd = `# a comment
root:x:0:0:root:/root:/bin/bash
alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh
bad:x:notanumber:0::/:/bin/sh
short:x:5
none:x:4294967295:0::/:/bin/sh
bare:x:7:7:::
1234:x:1500:1500::/home/odd:/bin/sh
`

const group = `root:x:0:
tty:x:5:
alice:x:1000:
sudo:x:27:bob,alice
docker:x:999:alice
bad:x:zz:alice
`

func database(t *testing.T, environment string) Database {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"passwd": passwd, "group": group, "environment": environment} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Database(dir)
}

func TestLookup(t *testing.T) {
	d := database(t, "")
	alice := Account{Name: "alice", UID: 1000, GID: 1000, Groups: []uint32{27, 999}, Home: "/home/alice", Shell: "/bin/zsh", Listed: true}
	inTTY := alice
	inTTY.GID, inTTY.Groups = 5, nil
	for spec, want := range map[string]Account{
		"":          {Name: "root", Home: "/root", Shell: "/bin/bash", Listed: true},
		"root":      {Name: "root", Home: "/root", Shell: "/bin/bash", Listed: true},
		"alice":     alice,
		"1000":      alice,
		"alice:tty": inTTY,
		"1000:5":    inTTY,
		"bare":      {Name: "bare", UID: 7, GID: 7, Home: "/", Shell: "/bin/sh", Listed: true},
		"4321":      {Name: "4321", UID: 4321, Home: "/", Shell: "/bin/sh"},
		"4321:99":   {Name: "4321", UID: 4321, GID: 99, Home: "/", Shell: "/bin/sh"},
		// A name may look like a number; the name wins.
		"1234": {Name: "1234", UID: 1500, GID: 1500, Home: "/home/odd", Shell: "/bin/sh", Listed: true},
	} {
		got, err := d.Lookup(spec)
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%q: %+v, %v; want %+v", spec, got, err, want)
		}
	}
	for _, spec := range []string{"bob", "bad", "alice:nogroup", "4294967295", "-1", "alice:"} {
		if got, err := d.Lookup(spec); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
}

func TestNoFiles(t *testing.T) {
	d := Database(t.TempDir())
	if a, err := d.Lookup(""); err != nil || a.Home != "/root" || a.Shell != "/bin/sh" {
		t.Errorf("%+v, %v", a, err)
	}
	// A FIFO in an image must not hang the agent.
	if err := syscall.Mkfifo(filepath.Join(string(d), "passwd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lookup("alice"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
}

func TestEnviron(t *testing.T) {
	d := database(t, "PATH=\"/opt/bin:/bin\"\nexport LANG=de_DE.UTF-8\n# no\nnonsense\n EDITOR='vi' \n")
	a, err := d.Lookup("alice")
	if err != nil {
		t.Fatal(err)
	}
	env := d.Environ(a, []string{"EDITOR=nano", "X=1", "X=2"})
	want := []string{
		"HOME=/home/alice", "USER=alice", "LOGNAME=alice", "SHELL=/bin/zsh",
		"PATH=/opt/bin:/bin", "LANG=de_DE.UTF-8", "EDITOR=nano", "X=2",
	}
	if !slices.Equal(env, want) {
		t.Errorf("%q", env)
	}
	if Getenv(env, "X") != "2" || Getenv(env, "NONE") != "" {
		t.Error("Getenv")
	}
}

func TestPermits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stranger := &Account{UID: 54321, GID: 54321}
	root := &Account{}
	if stranger.Permits(info, 4) || !root.Permits(info, 4) || root.Permits(info, 1) {
		t.Error("0600: root may read, and nobody may execute")
	}
	owner := &Account{UID: uint32(os.Getuid()), GID: 54321}
	if !owner.Permits(info, 6) {
		t.Error("0600: its owner may read and write")
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(passwd, group, "A=b\n", "alice:tty")
	f.Fuzz(func(t *testing.T, passwd, group, environment, spec string) {
		dir := t.TempDir()
		for name, text := range map[string]string{"passwd": passwd, "group": group, "environment": environment} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d := Database(dir)
		a, err := d.Lookup(spec)
		if err != nil {
			return
		}
		for _, kv := range d.Environ(a, nil) {
			if strings.IndexByte(kv, 0) >= 0 || strings.IndexByte(kv, '=') <= 0 {
				t.Errorf("%q", kv)
			}
		}
	})
}
