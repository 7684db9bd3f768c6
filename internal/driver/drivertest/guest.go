package drivertest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// modules are what the test guest needs of a Debian kernel, in an order in
// which they can be loaded. What a kernel has built in, it lacks as a file.
func modules() []string {
	return []string{
		"virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_pci",
		"virtio_blk", "virtio_console", "failover", "net_failover", "virtio_net", "af_packet",
	}
}

// Initrd builds the test guest as an initramfs at path. modulesDir holds the
// kernel's modules, uncompressed.
func Initrd(t testing.TB, path, modulesDir string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program,
		"github.com/banger-dev/banger/internal/driver/testguest/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the test guest: %v\n%s", err, out)
	}
	if err := writeInitrd(path, program, modulesDir); err != nil {
		t.Fatal(err)
	}
}

func writeInitrd(path, program, modulesDir string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := cpio.Newc.Writer(f)
	body, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	// The kernel opens /dev/console before it starts /init.
	records := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("modules", 0o755), cpio.StaticFile("init", string(body), 0o755),
	}
	found, err := findModules(modulesDir)
	if err != nil {
		return err
	}
	for n, name := range modules() {
		if file, ok := found[name+".ko"]; ok {
			body, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			records = append(records, cpio.StaticFile(fmt.Sprintf("modules/%02d-%s.ko", n, name), string(body), 0o644))
		}
	}
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return f.Close()
}

func findModules(dir string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".ko" {
			found[d.Name()] = path
		}
		return err
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no modules below %s", dir)
	}
	return found, err
}
