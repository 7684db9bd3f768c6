package guest

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver/drivertest"
	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/u-root/u-root/pkg/cpio"
)

// longest bounds one boot or shutdown. It is there to end what hangs.
const longest = time.Minute

// modules are what the guest needs of a Debian kernel, in an order in which
// they can be loaded; what a kernel has built in has no file.
func modules() []string {
	return []string{
		"virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_pci",
		"virtio_blk", "virtio_console", "overlay", "failover", "net_failover", "virtio_net",
	}
}

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
	m := &machine{t: t, dir: dir, base: base, initrd: filepath.Join(dir, "initrd")}
	var mods string
	m.kernel, mods = drivertest.Kernel(t)
	writeInitrd(t, m.initrd, mods)
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

// writeInitrd builds the agent and packs it with the kernel's modules.
func writeInitrd(t *testing.T, path, modulesDir string) {
	t.Helper()
	program := filepath.Join(filepath.Dir(path), "agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "github.com/banger-dev/banger/cmd/banger-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	body, err := os.ReadFile(program)
	must(t, err)
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("modules", 0o755), cpio.StaticFile("init", string(body), 0o755),
	}
	var order strings.Builder
	files := findModules(t, modulesDir)
	for _, name := range modules() {
		file, ok := files[name+".ko"]
		if !ok {
			continue
		}
		body, err := os.ReadFile(file)
		must(t, err)
		records = append(records, cpio.StaticFile("modules/"+name+".ko", string(body), 0o644))
		fmt.Fprintln(&order, name+".ko")
	}
	records = append(records, cpio.StaticFile("modules/order", order.String(), 0o644))
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	w := cpio.Newc.Writer(f)
	must(t, cpio.WriteRecords(w, records))
	must(t, cpio.WriteTrailer(w))
}

func findModules(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".ko" {
			found[d.Name()] = path
		}
		return err
	}))
	return found
}

// start boots the VM. Its QEMU is ended with the test.
func (m *machine) start() {
	m.t.Helper()
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "512", "-smp", "1",
		"-kernel", m.kernel, "-initrd", m.initrd,
		"-append", "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t random.trust_cpu=on cryptomgr.notests=1 tsc=reliable",
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
	var stderr bytes.Buffer
	m.qemu.Stderr = &stderr
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
