package apt

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// hostDir writes an apt configuration directory.
func hostDir(t *testing.T, files map[string]string) string {
	t.Helper()
	etc := t.TempDir()
	for name, text := range files {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(etc, name)), 0o700))
		must(t, os.WriteFile(filepath.Join(etc, name), []byte(text), 0o600))
	}
	return etc
}

func TestHostSources(t *testing.T) {
	etc := hostDir(t, map[string]string{
		"sources.list": `# a comment
deb http://a.example/debian bookworm main contrib # the main one
deb-src http://a.example/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://b.example/security bookworm-security main
deb [broken http://c.example bookworm main
deb http://d.example
`,
		"sources.list.d/x.sources": `Types: deb deb-src
URIs: http://e.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc=
 -----END PGP PUBLIC KEY BLOCK-----

# switched off
Enabled: no
Types: deb
URIs: http://f.example
Suites: bookworm
Components: main

Types: deb-src
URIs: http://g.example
Suites: bookworm
Components: main
`,
		"sources.list.d/ignored.save": "deb http://h.example bookworm main\n",
	})
	got := hostSources(etc)
	want := []source{
		{uris: []string{"http://a.example/debian"}, suites: []string{"bookworm"}, components: []string{"main", "contrib"}},
		{uris: []string{"http://b.example/security"}, suites: []string{"bookworm-security"}, components: []string{"main"}, signedBy: "/k.gpg"},
		{uris: []string{"http://e.example/debian"}, suites: []string{"bookworm", "bookworm-updates"}, components: []string{"main"},
			signedBy: "\n-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nabc=\n-----END PGP PUBLIC KEY BLOCK-----"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if again := parseStanzas(string(stanzas(want, "amd64"))); !reflect.DeepEqual(again, want) {
		t.Errorf("written and read again: %q", again)
	}
}

func TestServing(t *testing.T) {
	all := []source{
		{uris: []string{"u:/1"}, suites: []string{"bookworm", "bookworm-updates", "bookworm-backports"}, components: []string{"main"}},
		{uris: []string{"u:/2"}, suites: []string{"bookworm-security"}, components: []string{"contrib", "main"}},
		{uris: []string{"u:/3"}, suites: []string{"bookworm"}, components: []string{"stable"}},
		{uris: []string{"u:/4"}, suites: []string{"cloud-sdk-bookworm"}, components: []string{"main"}},
	}
	got := serving(all, "bookworm", "trixie")
	want := []source{
		{uris: []string{"u:/1"}, suites: []string{"trixie", "trixie-updates"}, components: []string{"main"}},
		{uris: []string{"u:/2"}, suites: []string{"trixie-security"}, components: []string{"main"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := serving(all[1:], "bookworm", "bookworm"); got != nil {
		t.Errorf("updates without the release itself: %q", got)
	}
}

func TestDebianCodename(t *testing.T) {
	dir := hostDir(t, map[string]string{
		"debian": "ID=debian\nVERSION_CODENAME=\"trixie\"\n",
		"ubuntu": "ID=ubuntu\nVERSION_CODENAME=noble\n",
	})
	for name, want := range map[string]string{"debian": "trixie", "ubuntu": "", "missing": ""} {
		if got := debianCodename(filepath.Join(dir, name)); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	if what, fraction, ok := parseStatus("dlstatus:3:41.5:Retrieving file 3 of 9"); !ok || what != "Retrieving file 3 of 9" || fraction != 0.415 {
		t.Errorf("%q, %v, %v", what, fraction, ok)
	}
	for _, line := range []string{"", "dlstatus:1:NaN:x", "dlstatus:1:101:x", "dlstatus:1:-1:x", "pmstatus:a:1:x", "dlstatus:1:2"} {
		if _, _, ok := parseStatus(line); ok {
			t.Errorf("%q was taken", line)
		}
	}
}

func TestComplaint(t *testing.T) {
	for stderr, want := range map[string]string{
		"W: first\nE: second\n":                                   "second",
		"W: Download is performed unsandboxed as root\nW: real\n": "real",
		"noise\n": "",
	} {
		if got := complaint(stderr); got != want {
			t.Errorf("complaint(%q) = %q", stderr, got)
		}
	}
	a := &Archive{suite: "bookworm"}
	full := a.failure("apt-get update", "E: write: write (28: No space left on device)").Error()
	if !strings.Contains(full, "No space left") || !strings.Contains(full, "df -h") {
		t.Error(full)
	}
	if long := a.failure("x", "E: "+strings.Repeat("y", 5000)).Error(); len(long) > 600 {
		t.Errorf("an error of %d bytes", len(long))
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	kept := &tail{limit: 5}
	for _, part := range []string{"abc", "defg", "", "h"} {
		if n, err := kept.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if kept.String() != "defgh" {
		t.Errorf("kept %q", kept)
	}
}

// FuzzSources: whatever the host's files hold, what is written of them is read
// back as the same archives, and adds no line of its own.
func FuzzSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://a/ bookworm main\n")
	f.Add("Types: deb\nURIs: http://a/\nSuites: bookworm\nComponents: main\nSigned-By:\n key\n .\n more\n\n")
	f.Add("Types: deb\nURIs: http://a/\nSuites: bookworm\nComponents: main\nSigned-By: a\n Trusted: yes\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, all := range [][]source{parseLines(text), parseStanzas(text)} {
			kept := serving(all, "bookworm", "bookworm")
			again := parseStanzas(string(stanzas(kept, "amd64")))
			if len(kept) != len(again) {
				t.Fatalf("%d archives became %d: %q", len(kept), len(again), stanzas(kept, "amd64"))
			}
			for i := range kept {
				if !reflect.DeepEqual(kept[i].uris, again[i].uris) || !reflect.DeepEqual(kept[i].suites, again[i].suites) {
					t.Fatalf("%q became %q", kept[i], again[i])
				}
			}
		}
	})
}
