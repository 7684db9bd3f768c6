package apt

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/layout"
)

// archiveCopy copies one of the archives in testdata and returns its directory.
func archiveCopy(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func keyring(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/keyring.gpg")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// open opens the private directory of an archive on disk, in a home of its own.
func open(t *testing.T, dir string) *Archive {
	t.Helper()
	a, err := Open(t.Context(), Config{
		Home: layout.Home{Cache: filepath.Join(t.TempDir(), "cache")}, Suite: "bookworm", Arch: "amd64",
		Options: Options{Mirror: "copy:" + dir, Keyring: keyring(t)},
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func silent(string, float64) {}

// patch replaces bytes in a file of an archive.
func patch(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(text, []byte(from), []byte(to), 1)
	if bytes.Equal(text, changed) {
		t.Fatalf("%s has no %q", path, from)
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDownload(t *testing.T) {
	a := open(t, archiveCopy(t, "debian"))
	if err := a.Update(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
	kernel, err := a.Show(t.Context(), "linux-image-cloud-amd64")
	if err != nil || len(kernel.Depends) != 1 || kernel.Depends[0] != "linux-image-6.1.0-1-cloud-amd64" {
		t.Errorf("Show: %+v, %v", kernel, err)
	}
	probe, err := a.Show(t.Context(), "probe")
	if err != nil || probe.Version != "1.0" || probe.Size == 0 || len(probe.SHA256) != 64 {
		t.Fatalf("Show probe: %+v, %v", probe, err)
	}
	path, err := a.Download(t.Context(), probe, silent)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	want, _ := os.ReadFile("testdata/debian/pool/probe_1.0_amd64.deb")
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not the package", path)
	}
	if _, err := a.Show(t.Context(), "no-such"); banger.CodeOf(err) == "" || !strings.Contains(err.Error(), "no-such") && a.problem == "" {
		t.Errorf("a package that is not there: %v", err)
	}
}

// TestTampering: apt is made to refuse whatever is not what was signed.
func TestTampering(t *testing.T) {
	const list = "dists/bookworm/main/binary-amd64/Packages"
	for name, harm := range map[string]func(t *testing.T, dir string){
		"release changed": func(t *testing.T, dir string) { patch(t, dir+"/dists/bookworm/InRelease", "oldstable", "newstable") },
		"list changed":    func(t *testing.T, dir string) { patch(t, filepath.Join(dir, list), "Version: 1.0", "Version: 9.0") },
		"package changed": func(t *testing.T, dir string) {
			patch(t, dir+"/pool/probe_1.0_amd64.deb", "debian-binary", "debian-banary")
		},
		"signature gone":   unsign,
		"package cut":      func(t *testing.T, dir string) { must(t, os.Truncate(dir+"/pool/probe_1.0_amd64.deb", 100)) },
		"package gone":     func(t *testing.T, dir string) { must(t, os.Remove(dir+"/pool/probe_1.0_amd64.deb")) },
		"archive is empty": func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/dists")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := archiveCopy(t, "debian")
			harm(t, dir)
			a := open(t, dir)
			if err := a.Update(t.Context(), silent); err != nil {
				t.Fatalf("Update is not the judge: %v", err)
			}
			probe, err := a.Show(t.Context(), "probe")
			if err == nil {
				_, err = a.Download(t.Context(), probe, silent)
			}
			if banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "Debian bookworm") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unsign leaves the release file as it is, without its signature.
func unsign(t *testing.T, dir string) {
	text, err := os.ReadFile(dir + "/dists/bookworm/InRelease")
	must(t, err)
	_, body, _ := strings.Cut(string(text), "\n\n")
	body, _, _ = strings.Cut(body, "-----BEGIN")
	must(t, os.Remove(dir+"/dists/bookworm/InRelease"))
	must(t, os.WriteFile(dir+"/dists/bookworm/Release", []byte(body), 0o600))
}

// TestStranger: an archive that is not Debian's gives nothing, though the host
// trusts its key and it has a newer version under the same suite name.
func TestStranger(t *testing.T) {
	a := open(t, archiveCopy(t, "debian"))
	both := []source{
		{uris: []string{"copy:" + archiveCopy(t, "debian")}, suites: []string{"bookworm"}, components: []string{"main"}, signedBy: keyring(t)},
		{uris: []string{"copy:" + archiveCopy(t, "stranger")}, suites: []string{"bookworm"}, components: []string{"main"}, signedBy: keyring(t)},
	}
	must(t, os.WriteFile(a.dir.Sources(), stanzas(both, "amd64"), 0o600))
	must(t, a.Update(t.Context(), silent))
	if a.problem != "" {
		t.Fatalf("apt complains: %s", a.problem)
	}
	if probe, err := a.Show(t.Context(), "probe"); err != nil || probe.Version != "1.0" {
		t.Errorf("Show probe: %+v, %v", probe, err)
	}
	must(t, os.WriteFile(a.dir.Sources(), stanzas(both[1:], "amd64"), 0o600))
	must(t, a.Update(t.Context(), silent))
	if probe, err := a.Show(t.Context(), "probe"); banger.CodeOf(err) != banger.CodeNotFound {
		t.Errorf("the stranger gave %+v, %v", probe, err)
	}
}

func TestOpenWaitsForTheOther(t *testing.T) {
	held := open(t, archiveCopy(t, "debian"))
	home := layout.Home{Cache: filepath.Dir(filepath.Dir(held.dir.Dir()))}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Open(ctx, Config{Home: home, Suite: "bookworm", Arch: "amd64", Waiting: cancel})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Open while another has it: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	home := layout.Home{Cache: filepath.Join(t.TempDir(), "cache")}
	for _, c := range []Config{
		{Home: home, Suite: "../x"},
		{Home: home, Suite: ""},
		{Home: home, Suite: "bookworm", Options: Options{Mirror: "not a url"}},
		{Home: home, Suite: "bookworm", Options: Options{Mirror: "http://x/ [trusted=yes]"}},
	} {
		if _, err := Open(t.Context(), c); banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("Open(%+v): %v", c, err)
		}
	}
	a := open(t, archiveCopy(t, "debian"))
	for _, name := range []string{"", "-o", "a b", "../x"} {
		if _, err := a.Show(t.Context(), name); banger.CodeOf(err) != banger.CodeUsage {
			t.Errorf("Show(%q): %v", name, err)
		}
	}
	t.Setenv("PATH", "/nowhere")
	if err := a.Update(t.Context(), silent); banger.CodeOf(err) != banger.CodeUnavailable || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("without apt-get: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	a := open(t, archiveCopy(t, "debian"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Update(ctx, silent); !errors.Is(err, context.Canceled) {
		t.Errorf("Update: %v", err)
	}
	probe := Package{Name: "probe", Version: "1.0", Filename: "probe_1.0_amd64.deb"}
	must(t, os.WriteFile(filepath.Join(a.debs, debName(probe)), []byte("a part"), 0o600))
	if _, err := a.Download(ctx, probe, silent); !errors.Is(err, context.Canceled) {
		t.Errorf("Download: %v", err)
	}
	err := filepath.WalkDir(a.debs, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			t.Errorf("left behind: %s", path)
		}
		return err
	})
	must(t, err)
}
