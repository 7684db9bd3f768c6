package boot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func TestHomeIsFilledExactly(t *testing.T) {
	image, disk := t.TempDir(), t.TempDir()
	write(t, filepath.Join(image, "a/file"), "text")
	must(t, os.Chmod(filepath.Join(image, "a/file"), 0o4751|os.ModeSetuid))
	must(t, os.Link(filepath.Join(image, "a/file"), filepath.Join(image, "twin")))
	must(t, os.Symlink("/nowhere", filepath.Join(image, "link")))
	must(t, unix.Mkfifo(filepath.Join(image, "fifo"), 0o600))
	must(t, unix.Setxattr(filepath.Join(image, "a"), "user.note", []byte("kept"), 0))
	then := []unix.Timespec{{Sec: 1000}, {Sec: 2000, Nsec: 5}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(image, "a/file"), then, 0))
	must(t, os.Chmod(image, 0o700))

	home, err := fillHome(image, disk)
	must(t, err)
	var file, twin, top, fifo unix.Stat_t
	must(t, unix.Lstat(filepath.Join(home, "a/file"), &file))
	must(t, unix.Lstat(filepath.Join(home, "twin"), &twin))
	must(t, unix.Lstat(filepath.Join(home, "fifo"), &fifo))
	must(t, unix.Lstat(home, &top))
	if file.Mode != unix.S_IFREG|0o4751 || file.Mtim != then[1] || file.Ino != twin.Ino {
		t.Errorf("file %o, %v, inode %d and %d", file.Mode, file.Mtim, file.Ino, twin.Ino)
	}
	if fifo.Mode != unix.S_IFIFO|0o600 || top.Mode != unix.S_IFDIR|0o700 {
		t.Errorf("fifo %o, top %o", fifo.Mode, top.Mode)
	}
	if target, err := os.Readlink(filepath.Join(home, "link")); err != nil || target != "/nowhere" {
		t.Errorf("link to %q: %v", target, err)
	}
	value := make([]byte, 16)
	if n, err := unix.Getxattr(filepath.Join(home, "a"), "user.note", value); err != nil || string(value[:n]) != "kept" {
		t.Errorf("attribute %q: %v", value[:max(n, 0)], err)
	}
}

func TestHomeIsNeverFilledTwice(t *testing.T) {
	image, disk := t.TempDir(), t.TempDir()
	write(t, filepath.Join(image, "file"), "from the image")
	home, err := fillHome(image, disk)
	must(t, err)
	write(t, filepath.Join(home, "file"), "mine")
	write(t, filepath.Join(image, "new"), "from a newer image")
	again, err := fillHome(image, disk)
	must(t, err)
	text, err := os.ReadFile(filepath.Join(again, "file"))
	if err != nil || string(text) != "mine" {
		t.Errorf("%q: %v", text, err)
	}
	if _, err := os.Lstat(filepath.Join(again, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("new: %v", err)
	}
}

func TestInterruptedFillIsDoneAgain(t *testing.T) {
	image, disk := t.TempDir(), t.TempDir()
	write(t, filepath.Join(image, "file"), "whole")
	write(t, filepath.Join(disk, fillingName, "file"), "ha")
	write(t, filepath.Join(disk, fillingName, "stale"), "")
	home, err := fillHome(image, disk)
	must(t, err)
	entries, err := os.ReadDir(home)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v: %v", entries, err)
	}
	if _, err := os.Lstat(filepath.Join(disk, fillingName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished copy: %v", err)
	}
}

func TestFindInit(t *testing.T) {
	for name, c := range map[string]struct {
		make func(root string)
		path string
		kind string
	}{
		"nothing": {func(string) {}, "", None},
		"relative link": {func(root string) {
			program(t, root, "usr/lib/systemd/systemd")
			link(t, root, "usr/lib", "lib")
			link(t, root, "../lib/systemd/systemd", "sbin/init")
		}, "/sbin/init", Systemd},
		"absolute link": {func(root string) {
			program(t, root, "lib/systemd/systemd")
			link(t, root, "/lib/systemd/systemd", "sbin/init")
		}, "/sbin/init", Systemd},
		"no sbin/init": {func(root string) {
			program(t, root, "usr/lib/systemd/systemd")
		}, "/usr/lib/systemd/systemd", Systemd},
		"busybox": {func(root string) {
			program(t, root, "bin/busybox")
			link(t, root, "/bin/busybox", "sbin/init")
		}, "", None},
		"not executable": {func(root string) { write(t, filepath.Join(root, "lib/systemd/systemd"), "") }, "", None},
		"loop":           {func(root string) { link(t, root, "init", "sbin/init") }, "", None},
		"way out":        {func(root string) { link(t, root, "../../../../../../../../bin/sh", "sbin/init") }, "", None},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			c.make(root)
			if path, kind := findInit(root); path != c.path || kind != c.kind {
				t.Errorf("got %q, %q", path, kind)
			}
		})
	}
}

func program(t *testing.T, root, path string) {
	t.Helper()
	write(t, filepath.Join(root, path), "")
	must(t, os.Chmod(filepath.Join(root, path), 0o755))
}

func link(t *testing.T, root, target, path string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(root, path)), 0o755))
	must(t, os.Symlink(target, filepath.Join(root, path)))
}

func TestModuleOrder(t *testing.T) {
	dir := t.TempDir()
	if names, err := moduleOrder(filepath.Join(dir, "order")); err != nil || names != nil {
		t.Errorf("no list: %v, %v", names, err)
	}
	write(t, filepath.Join(dir, "order"), "00-virtio.ko\n\n01-overlay.ko\n")
	names, err := moduleOrder(filepath.Join(dir, "order"))
	if err != nil || !slices.Equal(names, []string{"00-virtio.ko", "01-overlay.ko"}) {
		t.Errorf("%v, %v", names, err)
	}
}

func TestHasDevice(t *testing.T) {
	bus := t.TempDir()
	if !hasDevice(bus, kindOf("14-vsock.ko")) {
		t.Error("before there are devices, everything is loaded")
	}
	write(t, filepath.Join(bus, "virtio0/device"), "0x0001\n")
	write(t, filepath.Join(bus, "virtio1/device"), "0x0002\n")
	for module, want := range map[string]bool{
		"00-virtio_ring.ko": true, "10-overlay.ko": true, "13-virtio_net.ko": true, "11-failover.ko": true,
		"05-virtio_mmio.ko": false, "09-virtio-rng.ko": false, "16-vmw_vsock_virtio_transport.ko": false,
	} {
		if got := hasDevice(bus, kindOf(module)); got != want {
			t.Errorf("%s: %v", module, got)
		}
	}
}

func TestFinisher(t *testing.T) {
	root := t.TempDir()
	for _, pid := range []int{77, 77, 81} {
		must(t, installFinisher(root, pid))
	}
	path := filepath.Join(root, finisher)
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "#!/proc/81/exe finish\n" {
		t.Errorf("%q: %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v: %v", info, err)
	}
}

func TestOthers(t *testing.T) {
	proc := t.TempDir()
	write(t, filepath.Join(proc, "1/cmdline"), "init")
	write(t, filepath.Join(proc, "2/cmdline"), "") // a kernel thread
	write(t, filepath.Join(proc, "80/cmdline"), "@banger-agent")
	write(t, filepath.Join(proc, "self/cmdline"), "x")
	if others(proc, 80) {
		t.Error("nobody is left, but the agent")
	}
	if !others(proc, 0) {
		t.Error("the agent is left")
	}
}

func TestDescribe(t *testing.T) {
	if got := describe(syscall.WaitStatus(9)); got != "signal 9" {
		t.Errorf("%q", got)
	}
	if got := describe(syscall.WaitStatus(3 << 8)); got != "exit status 3" {
		t.Errorf("%q", got)
	}
}
