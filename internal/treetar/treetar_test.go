package treetar

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree makes one of everything that is copied, and of what is not.
func tree(t testing.TB, dir string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "sub/empty"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "locked"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "plain"), []byte("plain\n"), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "sub/run.sh"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "locked/inside"), nil, 0o400))
	must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("long-", 40)), []byte("long"), 0o600))
	must(t, os.Link(filepath.Join(dir, "plain"), filepath.Join(dir, "sub/second name")))
	must(t, os.Symlink("../plain", filepath.Join(dir, "sub/link")))
	must(t, os.Symlink("/nowhere/at all", filepath.Join(dir, "dangling")))
	must(t, os.Chmod(filepath.Join(dir, "locked"), 0o555))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	when := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"plain", "sub/run.sh", "sub/empty", "sub"} {
		must(t, os.Chtimes(filepath.Join(dir, name), when, when))
	}
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	defer f.Close()
	for _, at := range []int64{0, 1 << 20, 10<<20 + 12345} {
		_, err := f.WriteAt(bytes.Repeat([]byte{7}, 5000), at)
		must(t, err)
	}
	must(t, f.Truncate(64<<20))
}

// describe is all of a tree that is to be the same in its copy.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := os.Lstat(path)
		must(t, err)
		rel, _ := filepath.Rel(dir, path)
		if rel == "." || rel == "pipe" {
			return nil
		}
		fmt.Fprintf(&b, "%s %v %d", rel, info.Mode(), info.ModTime().UnixNano())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			must(t, err)
			st := info.Sys().(*syscall.Stat_t)
			fmt.Fprintf(&b, " %d %x %d", len(data), data[:min(len(data), 16)], st.Nlink)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			must(t, err)
			b.WriteString(" -> " + target)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func pack(t testing.TB, name string) (archive []byte, sum Summary) {
	t.Helper()
	var b bytes.Buffer
	sum, err := new(Packer).Pack(t.Context(), &b, name)
	must(t, err)
	return b.Bytes(), sum
}

func unlock(t testing.TB, dirs ...string) {
	t.Cleanup(func() {
		for _, dir := range dirs {
			os.Chmod(filepath.Join(dir, "locked"), 0o755)
		}
	})
}

// A tree comes back as it was: modes, times, links, holes.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	tree(t, from)
	unlock(t, from, to)
	archive, sum := pack(t, from)
	if sum.Skipped != 1 || !slices.Equal(sum.Notes, []string{"from/pipe is a pipe"}) {
		t.Errorf("left out: %+v", sum)
	}
	if len(archive) > 200<<10 {
		t.Errorf("the archive has %d bytes: holes are in it", len(archive))
	}
	in, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(archive), to, Top(from))
	must(t, err)
	if in.Entries != sum.Entries || in.Bytes != sum.Bytes {
		t.Errorf("packed %+v, unpacked %+v", sum, in)
	}
	if want, got := describe(t, from), describe(t, to); want != got {
		t.Errorf("was\n%s\nis\n%s", want, got)
	}
	st, err := os.Stat(filepath.Join(to, "sparse"))
	must(t, err)
	if st.Sys().(*syscall.Stat_t).Blocks > 1000 {
		t.Errorf("%d blocks", st.Sys().(*syscall.Stat_t).Blocks)
	}
	a, _ := os.ReadFile(filepath.Join(from, "sparse"))
	b, _ := os.ReadFile(filepath.Join(to, "sparse"))
	if !bytes.Equal(a, b) {
		t.Error("the sparse file differs")
	}
}

// What GNU tar reads of ours, and we of GNU tar's, is the same tree.
func TestGNUTar(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	tree(t, from)
	archive, _ := pack(t, from)
	theirs := filepath.Join(dir, "theirs")
	must(t, os.Mkdir(theirs, 0o700))
	unlock(t, from, filepath.Join(theirs, "from"), filepath.Join(dir, "ours"))
	cmd := exec.Command("tar", "-xp", "-C", theirs)
	cmd.Stdin = bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	if want, got := describe(t, from), describe(t, filepath.Join(theirs, "from")); want != got {
		t.Errorf("was\n%s\nGNU tar made\n%s", want, got)
	}
	for _, format := range []string{"--format=gnu", "--format=pax"} {
		out, err := exec.Command("tar", "-cS", format, "-C", dir, "--exclude", "pipe", "from").Output()
		must(t, err)
		ours := filepath.Join(dir, "ours")
		if _, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(out), ours, "from"); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		a, _ := os.ReadFile(filepath.Join(from, "sparse"))
		b, _ := os.ReadFile(filepath.Join(ours, "sparse"))
		if !bytes.Equal(a, b) {
			t.Errorf("%s: the sparse file differs", format)
		}
	}
}

// Where things go is as cp has it.
func TestDestinations(t *testing.T) {
	for _, c := range []struct{ src, dest, want, fails string }{
		{"file", "new", "new", ""},
		{"file", "dir", "dir/file", ""},
		{"file", "dir/", "dir/file", ""},
		{"file", "old", "old", ""},
		{"file", "link", "old", ""},
		{"file", "none/", "", "there is no such directory"},
		{"file", "none/new", "", "no such file"},
		{"file", "/dev/null", "", "is a device"},
		{"tree", "new", "new/a", ""},
		{"tree", "dir", "dir/tree/a", ""},
		{"tree/", "dir", "dir/tree/a", ""},
		{"tree/.", "dir", "dir/a", ""},
		{"tree/.", "new", "new/a", ""},
		{"tree", "old", "", "a file or a link where the directory"},
		{"tree/.", "old", "", "is not a directory"},
	} {
		t.Run(c.src+" to "+c.dest, func(t *testing.T) {
			dir := t.TempDir()
			t.Chdir(dir)
			must(t, os.Mkdir("dir", 0o755))
			must(t, os.Mkdir("tree", 0o755))
			must(t, os.WriteFile("tree/a", []byte("new"), 0o600))
			must(t, os.WriteFile("file", []byte("new"), 0o600))
			must(t, os.WriteFile("old", []byte("old"), 0o600))
			must(t, os.Symlink("old", "link"))
			archive, _ := pack(t, c.src)
			_, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(archive), c.dest, Top(c.src))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v", err)
				}
				return
			}
			must(t, err)
			if data, err := os.ReadFile(c.want); err != nil || string(data) != "new" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
}

// hostile is an archive of entries that no honest end sends.
func hostile(t testing.TB, entries ...tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Format = tar.FormatGNU
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		h.Mode |= 0o600
		if h.Typeflag == tar.TypeDir {
			h.Mode |= 0o700
		}
		must(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, "evil")
			must(t, err)
		}
	}
	must(t, w.Close())
	return b.Bytes()
}

// Nothing outside of what was asked for is made, changed or followed.
func TestHostileArchives(t *testing.T) {
	dirOf := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	hard := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for name, archive := range map[string][]byte{
		"a parent":                hostile(t, dirOf("top"), file("top/../secret")),
		"an absolute name":        hostile(t, dirOf("top"), file("/etc/evil")),
		"another top":             hostile(t, file("secret")),
		"another top, later":      hostile(t, dirOf("top"), file("secret")),
		"a link that leads out":   hostile(t, dirOf("top"), link("top/out", ".."), file("top/out/secret")),
		"an absolute link":        hostile(t, dirOf("top"), link("top/out", "/tmp"), file("top/out/evil")),
		"a link as the top":       hostile(t, link("top", ".."), file("top/secret")),
		"a link for a directory":  hostile(t, dirOf("top"), link("top/out", ".."), dirOf("top/out"), file("top/out/secret")),
		"a hard link that leads":  hostile(t, dirOf("top"), hard("top/in", "top/../secret"), file("top/in")),
		"a hard link to another":  hostile(t, dirOf("top"), hard("top/in", "secret"), file("top/in")),
		"a hard link over a link": hostile(t, dirOf("top"), link("top/out", "../secret"), hard("top/in", "top/out")),
		"a link, written through": hostile(t, dirOf("top"), link("top/out", "../secret"), file("top/out"), hard("top/x", "top/../../x")),
		"a file as the top":       hostile(t, file("top"), file("top/x")),
		"no top first":            hostile(t, file("top/x")),
		"too deep":                hostile(t, dirOf("top"), file("top"+strings.Repeat("/d", 300))),
		"cut off":                 hostile(t, dirOf("top"), file("top/x"))[:1024+2],
		"nothing":                 nil,
		"no end":                  append(hostile(t, dirOf("top")), make([]byte, 2<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("good"), 0o600))
			_, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(archive), dir, "top")
			if err == nil {
				t.Error("it was taken")
			}
			untouched(t, dir)
		})
	}
}

// untouched checks that beside what was asked for all is as it was.
func untouched(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if e.Name() != "top" && e.Name() != "secret" {
			t.Errorf("%s was made", e.Name())
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "secret")); err != nil || string(data) != "good" {
		t.Errorf("the secret is %q, %v", data, err)
	}
}

// What a guest marks set-id is not, on the host.
func TestSetIDBits(t *testing.T) {
	dir := t.TempDir()
	archive := hostile(t, tar.Header{Name: "top", Typeflag: tar.TypeReg, Mode: 0o7755})
	_, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(archive), dir, "top")
	must(t, err)
	info, err := os.Stat(filepath.Join(dir, "top"))
	must(t, err)
	if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 || info.Mode().Perm() != 0o755 {
		t.Errorf("%v", info.Mode())
	}
}

// A file that shrinks while it is read fills its place with zeros, and a device is
// left out.
func TestEntriesThatAreLeftOut(t *testing.T) {
	dir := t.TempDir()
	archive := hostile(t, tar.Header{Name: "top", Typeflag: tar.TypeDir},
		tar.Header{Name: "top/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		tar.Header{Name: "top/fifo", Typeflag: tar.TypeFifo}, tar.Header{Name: "top/x", Typeflag: tar.TypeReg})
	sum, err := new(Unpacker).Unpack(t.Context(), bytes.NewReader(archive), dir, "top")
	must(t, err)
	if sum.Skipped != 2 || sum.Entries != 2 {
		t.Errorf("%+v", sum)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "top"))
	if len(entries) != 1 {
		t.Errorf("%v", entries)
	}
}

func TestPackErrors(t *testing.T) {
	_, err := new(Packer).Pack(t.Context(), io.Discard, filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestTop(t *testing.T) {
	for name, want := range map[string]string{
		"": ".", ".": ".", "/": ".", "a": "a", "a/": "a", "a/.": ".", "/a/b//": "b", "..": ".", "a/..": ".", "./x": "x",
	} {
		if got := Top(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestRecord(t *testing.T) {
	for n := range 2000 {
		r := record("k", strings.Repeat("v", n))
		if want := fmt.Sprintf("%d k=", len(r)); !strings.HasPrefix(r, want) {
			t.Fatalf("%d bytes: %.10q", len(r), r)
		}
	}
	for at, want := range map[time.Time]string{
		time.Unix(5, 6): "5.000000006", time.Unix(-2, 500_000_000): "-1.500000000", time.Unix(0, 0): "0.000000000",
	} {
		if got := seconds(at); got != want {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
	}
}

// FuzzUnpack: whatever the archive, only what was asked for is made.
func FuzzUnpack(f *testing.F) {
	dir := f.TempDir()
	must(f, os.Mkdir(filepath.Join(dir, "top"), 0o755))
	must(f, os.WriteFile(filepath.Join(dir, "top/sparse"), []byte("x"), 0o600))
	must(f, os.Truncate(filepath.Join(dir, "top/sparse"), 200<<10))
	must(f, os.Symlink("..", filepath.Join(dir, "top/out")))
	var b bytes.Buffer
	if _, err := new(Packer).Pack(f.Context(), &b, filepath.Join(dir, "top")); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(hostile(f, tar.Header{Name: "top", Typeflag: tar.TypeSymlink, Linkname: ".."}, tar.Header{Name: "top/secret", Typeflag: tar.TypeReg}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("good"), 0o600))
		u := Unpacker{Progress: func(s Summary) {
			if s.Bytes > 1<<20 { // a hole takes no space, and all of a fuzzer's time
				panic(tooMuch{})
			}
		}}
		func() {
			defer func() {
				if p := recover(); p != nil && p != (tooMuch{}) {
					panic(p)
				}
			}()
			u.Unpack(t.Context(), bytes.NewReader(archive), dir, "top")
		}()
		untouched(t, dir)
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error { os.Chmod(path, 0o700); return nil })
	})
}

type tooMuch struct{}
