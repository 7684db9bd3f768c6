package recipe

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// tools makes a PATH with these programs and nothing else.
func tools(t *testing.T, names ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func etc(t *testing.T, subuid, subgid string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"subuid": subuid, "subgid": subgid} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCheck(t *testing.T) {
	all := []string{"mmdebstrap", "newuidmap", "newgidmap"}
	enough := "ann:100000:65536\nbob:165536:65536\n"
	for _, c := range []struct {
		name  string
		uid   int
		tools []string
		etc   string
		hint  string // "" is fine
	}{
		{"root has all", 0, all[:1], etc(t, "", ""), ""},
		{"root without mmdebstrap", 0, nil, etc(t, "", ""), "apt-get install mmdebstrap"},
		{"user has all", 1000, all, etc(t, enough, enough), ""},
		{"user without mmdebstrap", 1000, nil, etc(t, enough, enough), "sudo apt-get install mmdebstrap"},
		{"user without uidmap", 1000, all[:1], etc(t, enough, enough), "sudo apt-get install uidmap"},
		{"user without ids", 1000, all, etc(t, "ann:100000:65536\n", ""), "sudo usermod --add-subuids 165536-231071 --add-subgids 165536-231071 bob"},
		{"user with few ids", 1000, all, etc(t, enough, "bob:5:10\n"), "sudo usermod --add-subgids 231072-296607 bob"},
		{"nonsense", 1000, all, etc(t, "bob\nbob:x:y\n:::::\n"+enough, enough), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			tools(t, c.tools...)
			err := host{uid: c.uid, user: "bob", etc: c.etc}.check()
			if c.hint == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if banger.CodeOf(err) != banger.CodeUnavailable || !strings.HasSuffix(err.Error(), "; try: "+c.hint) {
				t.Errorf("got %v, want the hint %q", err, c.hint)
			}
		})
	}
}

func TestAllowNamespaces(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "kernel"), 0o755); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "kernel", "apparmor_restrict_unprivileged_userns")
	if err := os.WriteFile(key, []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const want = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	if got := (host{uid: 1000}).allowNamespaces(dir); got != want {
		t.Errorf("got %q", got)
	}
}

// TestNoMounts: as root without namespaces nothing is mounted, so that nothing
// of the host is in the tree when it is removed.
func TestNoMounts(t *testing.T) {
	b := newBench(t, "ok")
	for _, c := range []struct {
		host host
		skip bool
	}{
		{host{uid: 0, isolated: true}, false},
		{host{uid: 0}, true},
		{host{uid: 1000}, false},
	} {
		args := b.arguments(c.host, scratch("/var/tmp/x"))
		if got := slices.Contains(args, "--skip=chroot/mount"); got != c.skip {
			t.Errorf("%+v: mounts skipped: %v", c.host, got)
		}
		if got := slices.Contains(c.host.wrapper(), "unshare"); got != c.host.isolated {
			t.Errorf("%+v: isolated: %v", c.host, got)
		}
	}
}

func TestScratchBase(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, preferred := range []string{"", "relative", closed, "/tmp/with space", "/nowhere"} {
		if got, err := scratchBase(preferred); err != nil || got != "/var/tmp" && got != "/tmp" {
			t.Errorf("scratchBase(%q) = %q, %v", preferred, got, err)
		}
	}
	open := enterableTemp(t)
	if got, err := scratchBase(open); err != nil || got != open {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestRecordNamesOnlyOurs: a record that was tampered with never leads a
// removal astray.
func TestRecordNamesOnlyOurs(t *testing.T) {
	dir := layout.Image(t.TempDir())
	for _, text := range []string{
		`{"scratch":"/"}`, `{"scratch":"/home"}`, `{"scratch":""}`, `{`,
		`{"scratch":"/var/tmp/banger-image-x/../../../home"}`, `{"scratch":"/var/tmp/banger-image-x/.."}`,
		`{"scratch":"banger-image-x"}`, `{"scratch":"/var/tmp/banger-image-a b"}`,
	} {
		if err := os.WriteFile(dir.Build(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := readRecord(dir); err == nil {
			t.Errorf("%s is taken as %q", text, s)
		}
	}
}
