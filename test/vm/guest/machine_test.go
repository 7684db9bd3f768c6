package guest

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver/qemu"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/initramfs"
	"github.com/banger-dev/banger/internal/kernel"
	"github.com/banger-dev/banger/internal/layout"
)

// longest bounds one boot or shutdown. It is there to end what hangs.
const longest = time.Minute

// machine is one VM's files and, between start and gone, its QEMU.
type machine struct {
	t              *testing.T
	dir            string
	base           string
	kernel, initrd string
	link           *guestlink.Link
	qemu           *exec.Cmd
	started        time.Time
	ended          chan struct{}
}

// newMachine makes a VM with fresh disks on a base image.
func newMachine(t *testing.T, base string) *machine {
	t.Helper()
	// The name of a unix socket is short.
	dir, err := os.MkdirTemp("", "guest")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{t: t, dir: dir, base: base}
	m.kernel, m.initrd = boots(t)
	for _, disk := range []string{"overlay", "work"} {
		makeDisk(t, m.file(disk+".ext4"), "")
	}
	return m
}

func (m *machine) file(name string) string { return filepath.Join(m.dir, name) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// makeDisk makes a sparse ext4 of 1 GiB, with the tree at from if there is one.
func makeDisk(t *testing.T, path, from string) {
	t.Helper()
	args := []string{"-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"}
	if from != "" {
		args = append(args, "-d", from)
	}
	run(t, "mke2fs", append(args, path, "1G")...)
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cached is the home in which kernel and image are kept between runs.
func cached(t *testing.T) layout.Home {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_CACHE")
	if dir == "" {
		base, err := os.UserCacheDir()
		must(t, err)
		dir = filepath.Join(base, "banger-test")
	}
	return layout.Home{State: filepath.Join(dir, "state"), Cache: filepath.Join(dir, "cache")}
}

// boots returns a kernel, and an initramfs with the agent as it is now.
func boots(t *testing.T) (vmlinux, initrd string) {
	t.Helper()
	home := cached(t)
	k, err := kernel.New(kernel.Options{Home: home, Log: slog.Default()}).Ensure(t.Context(), "debian-6.1", silent)
	must(t, err)
	agent := filepath.Join(t.TempDir(), "banger-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", agent, "github.com/banger-dev/banger/cmd/banger-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	initrd, err = initramfs.Ensure(t.Context(), home, initramfs.Kernel{SHA256: k.SHA256, Modules: k.Modules()}, agent)
	must(t, err)
	return k.Vmlinux(), initrd
}

func silent(banger.Progress) {}

// start boots the VM. Its QEMU is ended with the test.
func (m *machine) start() {
	m.t.Helper()
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-smp", "1",
		"-kernel", m.kernel, "-initrd", m.initrd,
		"-append", qemu.CommandLine("tcg"),
		"-serial", "file:" + m.file("console.log"),
		"-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile=",
		"-device", "virtio-serial-pci,max_ports=3",
	}
	disk := func(serial, path, mode string) {
		args = append(args,
			"-drive", "if=none,format=raw,id="+serial+",file="+path+",readonly="+mode,
			"-device", "virtio-blk-pci,drive="+serial+",serial="+serial)
	}
	disk("base", m.base, "on")
	disk("overlay", m.file("overlay.ext4"), "off")
	disk("work", m.file("work.ext4"), "off")
	for _, port := range []string{"ctl", "data"} {
		os.Remove(m.file(port))
		args = append(args,
			"-chardev", "socket,id="+port+",path="+m.file(port)+",server=on,wait=off",
			"-device", "virtserialport,chardev="+port+",name=banger."+port)
	}
	m.qemu = exec.Command("qemu-system-x86_64", args...)
	m.qemu.Stderr = os.Stderr
	m.started = time.Now()
	must(m.t, m.qemu.Start())
	ended := make(chan struct{})
	m.ended = ended
	qemu := m.qemu
	go func() { defer close(ended); qemu.Wait() }()
	m.t.Cleanup(func() { qemu.Process.Kill(); <-ended })
	m.link = m.newLink()
}

// newLink is what a supervisor does.
func (m *machine) newLink() *guestlink.Link {
	l := m.openLink()
	m.t.Cleanup(func() { l.Close() })
	return l
}

func (m *machine) openLink() *guestlink.Link {
	dial := func(name string) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			for {
				conn, err := d.DialContext(ctx, "unix", m.file(name))
				if err == nil {
					return conn, nil
				}
				select { // QEMU makes its sockets as it starts
				case <-time.After(5 * time.Millisecond):
				case <-m.ended:
					return nil, err
				case <-ctx.Done():
					return nil, err
				}
			}
		}
	}
	return guestlink.New(guestlink.Endpoints{Ctl: dial("ctl"), Data: dial("data")}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
}

// gone waits until the VM has ended by itself.
func (m *machine) gone() {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(longest):
		m.t.Fatalf("the VM did not end\n%s", m.console())
	}
}

func (m *machine) console() string {
	text, err := os.ReadFile(m.file("console.log"))
	must(m.t, err)
	return string(text)
}

// clean fails the test unless both disks were unmounted in order.
func (m *machine) clean() {
	m.t.Helper()
	for _, disk := range []string{"overlay.ext4", "work.ext4"} {
		run(m.t, "e2fsck", "-fn", m.file(disk))
		head := run(m.t, "dumpe2fs", "-h", m.file(disk))
		if strings.Contains(head, "needs_recovery") {
			m.t.Errorf("%s needs recovery", disk)
		}
	}
}
