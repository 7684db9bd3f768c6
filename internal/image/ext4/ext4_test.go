package ext4

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
)

// file is one entry of a test archive.
type file struct {
	tar.Header
	body string
}

func dir(name string, mode int64) file {
	return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func regular(name string, mode int64, body string) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(body))}, body}
}

func link(typeflag byte, name, target string) file {
	return file{Header: tar.Header{Typeflag: typeflag, Name: name, Linkname: target, Mode: 0o777}}
}

func (f file) owned(uid, gid int) file {
	f.Uid, f.Gid = uid, gid
	return f
}

func (f file) xattr(name, value string) file {
	records := map[string]string{xattrRecord + name: value}
	for k, v := range f.PAXRecords {
		records[k] = v
	}
	f.PAXRecords = records
	return f
}

var testTime = time.Unix(1700000000, 123456700)

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := f.Header
		hdr.Format, hdr.ModTime = tar.FormatPAX, testTime
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatalf("%s: %v", hdr.Name, err)
		}
		if _, err := io.WriteString(w, f.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func convert(t testing.TB, data []byte, limits Limits) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.ext4")
	disk, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	return path, Convert(t.Context(), bytes.NewReader(data), disk, limits)
}

// The capability that ping has: cap_net_raw+ep.
const pingCap = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// What setfacl -m g:adm:r-x leaves, as getxattr shows it.
const journalACL = "\x02\x00\x00\x00" +
	"\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" +
	"\x08\x00\x05\x00\x04\x00\x00\x00" + "\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x05\x00\xff\xff\xff\xff"

func rootFS() []file {
	return []file{
		dir("./", 0o755),
		dir("./usr/", 0o755),
		dir("./usr/bin/", 0o755),
		link(tar.TypeSymlink, "./bin", "usr/bin"),
		regular("./usr/bin/sudo", 0o4755, "sudo"),
		regular("./usr/bin/su", 0o4755, "su"),
		regular("./usr/bin/wall", 0o2755, "wall").owned(0, 5),
		regular("./usr/bin/ping", 0o755, strings.Repeat("ping", 5000)).xattr("security.capability", pingCap),
		regular("./usr/bin/perl", 0o755, "perl"),
		link(tar.TypeLink, "./usr/bin/perl5.36.0", "./usr/bin/perl"),
		dir("./tmp/", 0o1777),
		dir("./var/log/journal/", 0o2755).owned(0, 999).xattr("system.posix_acl_access", journalACL),
		regular("./home/far/file", 0o640, "x").owned(1<<31+5, 1<<32-2).xattr("user.note", "hello"),
		link(tar.TypeSymlink, "./usr/bin/"+strings.Repeat("l", 255), "/"+strings.Repeat("t/", 100)),
		dir("./dev/", 0o755),
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "./dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3}},
		link(tar.TypeSymlink, "./dev/fd", "/proc/self/fd"),
		{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "./srv/disk", Mode: 0o660, Devmajor: 259, Devminor: 70000}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "./run/pipe", Mode: 0o600}},
		regular("./usr/foreign", 0o644, "").xattr("com.apple.quarantine", "x").xattr("trusted.overlay.opaque", "y"),
	}
}

// stat asks debugfs, which knows nothing of who wrote the file system.
func stat(t *testing.T, image, path string) string {
	t.Helper()
	out, err := exec.Command("/usr/sbin/debugfs", "-R", "stat "+path, image).Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}

func TestWhatSurvives(t *testing.T) {
	image, err := convert(t, archive(t, rootFS()...), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	for path, wants := range map[string][]string{
		"/usr/bin/sudo":    {"Type: regular", "Mode:  04755", "User:     0", "mtime: 0x6553f100:1d6f32f0"},
		"/usr/bin/su":      {"Mode:  04755"},
		"/usr/bin/wall":    {"Mode:  02755", "Group:     5"},
		"/usr/bin/ping":    {"Mode:  0755", "Size: 20000", "security.capability (20) = 01 00 00 02 00 20 00"},
		"/usr/bin/perl":    {"Links: 2", "Size: 4"},
		"/bin":             {"Type: symlink", `Fast link dest: "usr/bin"`},
		"/tmp":             {"Type: directory", "Mode:  01777"},
		"/var/log/journal": {"Mode:  02755", "Group:   999", "system.posix_acl_access"},
		"/home/far/file":   {"Mode:  0640", "User: -2147483643", "Group:    -2", `user.note (5) = "hello"`},
		"/dev/fd":          {"Type: symlink"},
		"/srv/disk":        {"Type: block special", "259:70000"},
		"/run/pipe":        {"Type: FIFO"},
	} {
		got := stat(t, image, path)
		for _, want := range wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %q in\n%s", path, want, got)
			}
		}
	}
	if a, b := inode(stat(t, image, "/usr/bin/perl")), inode(stat(t, image, "/usr/bin/perl5.36.0")); a == "" || a != b {
		t.Errorf("the hard link is inode %s, its file %s", b, a)
	}
	if got := stat(t, image, "/dev/null"); got != "" {
		t.Errorf("/dev/null is in the image:\n%s", got)
	}
	if got := stat(t, image, "/usr/foreign"); strings.Contains(got, "apple") || strings.Contains(got, "overlay") {
		t.Errorf("foreign attributes were kept:\n%s", got)
	}
}

func inode(stat string) string {
	_, rest, _ := strings.Cut(stat, "Inode: ")
	number, _, _ := strings.Cut(rest, " ")
	return number
}

// TestKernelAgrees mounts the image where that is allowed: the kernel is the
// one that has to like it.
func TestKernelAgrees(t *testing.T) {
	image, err := convert(t, archive(t, rootFS()...), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	mnt := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro", image, mnt).CombinedOutput(); err != nil {
		t.Logf("not mounted, debugfs has to do (TestWhatSurvives): %v: %s", err, out)
		return
	}
	defer func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	}()
	for _, f := range rootFS() {
		if strings.HasPrefix(f.Name, "./dev/n") {
			continue
		}
		compare(t, mnt, f)
	}
}

// compare holds a mounted entry against the archive's.
func compare(t *testing.T, mnt string, f file) {
	t.Helper()
	path := filepath.Join(mnt, f.Name)
	info, err := os.Lstat(path)
	if err != nil {
		t.Error(err)
		return
	}
	st := info.Sys().(*syscall.Stat_t)
	if f.Typeflag != tar.TypeLink && (st.Mode&0o7777 != uint32(f.Mode) || st.Uid != uint32(f.Uid) || st.Gid != uint32(f.Gid) || !info.ModTime().Equal(testTime)) {
		t.Errorf("%s: mode %o owner %d:%d time %v", f.Name, st.Mode&0o7777, st.Uid, st.Gid, info.ModTime())
	}
	if f.Typeflag == tar.TypeReg {
		if body, err := os.ReadFile(path); err != nil || string(body) != f.body {
			t.Errorf("%s: other content (%v)", f.Name, err)
		}
	}
	for record, want := range f.PAXRecords {
		name := strings.TrimPrefix(record, xattrRecord)
		if !storable(name) {
			continue
		}
		buf := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s: %s is %x (%v)", f.Name, name, buf[:max(n, 0)], err)
		}
	}
}

func TestSameTreeSameBytes(t *testing.T) {
	data := archive(t, rootFS()...)
	var images [2][]byte
	for i := range images {
		path, err := convert(t, data, DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		if images[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two conversions of one archive differ")
	}
}

func TestRefused(t *testing.T) {
	small := Limits{Bytes: banger.MiB, Entries: 20, PathBytes: 4096}
	var many, long []file
	for i := range 21 {
		many = append(many, dir("d"+strconv.Itoa(i), 0o755))
		long = append(long, regular(strings.Repeat("n", 250)+strconv.Itoa(i), 0o644, ""))
	}
	for _, c := range []struct {
		name  string
		want  string
		files []file
	}{
		{"absolute", "absolute", []file{regular("/etc/passwd", 0o644, "x")}},
		{"dotdot", `".."`, []file{regular("a/../../etc/passwd", 0o644, "x")}},
		{"through a link", `beneath "a"`, []file{link(tar.TypeSymlink, "a", "/etc"), regular("a/passwd", 0o644, "x")}},
		{"through a file", `beneath "a"`, []file{regular("a", 0o644, ""), regular("a/b", 0o644, "x")}},
		{"symlink out", "out of the root", []file{link(tar.TypeSymlink, "a/b", "../../etc/passwd")}},
		{"symlink out by a detour", "out of the root", []file{link(tar.TypeSymlink, "a", "b/../../c")}},
		{"hard link out", "out of the root", []file{link(tar.TypeLink, "a", "../etc/passwd")}},
		{"hard link to nothing", "came before", []file{link(tar.TypeLink, "a", "b")}},
		{"hard link to a directory", "came before", []file{dir("b", 0o755), link(tar.TypeLink, "a", "b")}},
		{"twice", "twice", []file{regular("a", 0o644, "x"), regular("a", 0o644, "y")}},
		{"file over directory", "twice", []file{dir("a", 0o755), regular("a", 0o644, "y")}},
		{"directory over file", "twice", []file{regular("a", 0o644, "y"), dir("a", 0o755)}},
		{"root is a file", "root is not a directory", []file{link(tar.TypeSymlink, "./", "x")}},
		{"long name", "longer than 255", []file{regular(strings.Repeat("n", 256), 0o644, "")}},
		{"too many", "more than 20 entries", many},
		{"deep", "more than 20 entries", []file{regular(strings.Repeat("d/", 30)+"f", 0o644, "")}},
		{"long paths", "paths are longer", long},
		{"too large", "more than 1M", []file{regular("a", 0o644, strings.Repeat("x", 600<<10)), regular("b", 0o644, strings.Repeat("x", 600<<10))}},
		{"too large with metadata", "more than 1M", []file{regular("a", 0o644, strings.Repeat("x", 1<<20-4096))}},
		{"no such device", "no device", []file{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "n", Devmajor: 5000}}}},
		{"attributes too long", "attributes are longer", []file{regular("a", 0o644, "").xattr("user.a", strings.Repeat("x", 5000))}},
		{"bad ACL", "ACL", []file{regular("a", 0o644, "").xattr("system.posix_acl_access", "\x02\x00\x00\x00abc")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := convert(t, archive(t, c.files...), small)
			var e *banger.Error
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestTruncated(t *testing.T) {
	data := archive(t, dir("d", 0o755), regular("d/a", 0o644, strings.Repeat("a", 3000)), regular("d/b", 0o644, "b"+strings.Repeat("\x00", 1000)))
	whole := len(data)
	for cut := 0; cut < whole-1024+1; cut += 256 {
		if _, err := convert(t, data[:cut], DefaultLimits()); err == nil || !strings.Contains(err.Error(), "archive:") {
			t.Errorf("cut at %d of %d: %v", cut, whole, err)
		}
	}
	// One block of zeros is an end, and padding after it is usual.
	for name, ok := range map[string][]byte{"one block": data[:whole-512], "padded": append(bytes.Clone(data), make([]byte, 9000)...)} {
		if _, err := convert(t, ok, DefaultLimits()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := convert(t, append(bytes.Clone(data), make([]byte, maxTrailer+1)...), DefaultLimits()); err == nil {
		t.Error("a trailer without end was accepted")
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	disk, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	data := archive(t, regular("a", 0o644, strings.Repeat("x", 1<<20)))
	source := io.MultiReader(bytes.NewReader(data[:2000]), readerFunc(func(p []byte) (int, error) {
		cancel()
		return copy(p, data[2000:]), nil
	}))
	if err := Convert(ctx, source, disk, DefaultLimits()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDiskFull: the converter fails first; its error is the one that counts.
func TestDiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	data := archive(t, regular("a", 0o644, strings.Repeat("x", 4<<20)))
	if err := Convert(t.Context(), bytes.NewReader(data), full, DefaultLimits()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v", err)
	}
}

func TestDiskACL(t *testing.T) {
	got, ok := diskACL([]byte(journalACL))
	const want = "01000000" + "01000700" + "04000500" + "0800050004000000" + "10000500" + "20000500"
	if !ok || hex.EncodeToString(got) != want {
		t.Errorf("got %x, want %s", got, want)
	}
}
