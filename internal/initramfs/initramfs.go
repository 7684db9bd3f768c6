// Package initramfs makes the first file system of a guest: the agent as /init
// and the kernel modules that it loads, in their order. It holds nothing of any
// one VM, so that one file serves all VMs of a kernel and an agent build.
package initramfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"

	"github.com/banger-dev/banger/internal/layout"
)

// format changes when the file would be another one for the same inputs.
const format = "1"

// maxModule bounds one module, in bytes: the largest that is needed has 0.5 MB.
const maxModule = 32 << 20

// keep is how long a file that nobody asked for stays. A VMM reads it once, as
// it starts.
const keep = 24 * time.Hour

// wanted are the modules in the order they are loaded in. One that a kernel
// does not have is built in, or not needed: the guest says what it misses.
// virtio_mmio and vsock serve VMMs without PCI.
var wanted = []string{
	"virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio", "virtio_pci", "virtio_mmio",
	"virtio_blk", "virtio_console", "rng-core", "virtio-rng", "overlay", "failover", "net_failover", "virtio_net",
	"vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport",
}

// Kernel is the kernel that the guest boots.
type Kernel struct {
	// SHA256 of the vmlinux, in hex.
	SHA256 string
	// Modules is the directory of its modules.
	Modules string
}

// Maker makes initramfs for one process, and does not read an agent again that
// has not changed. The zero value is ready; its methods may be called from any
// goroutine.
type Maker struct{ agents digests }

// Ensure returns the path of the initramfs of a kernel and an agent, making it
// if it is not there. The path stays for a day after the last call that named
// it.
func Ensure(ctx context.Context, home layout.Home, k Kernel, agent string) (string, error) {
	return new(Maker).Ensure(ctx, home, k, agent)
}

// Ensure is the function Ensure, by a Maker.
func (m *Maker) Ensure(ctx context.Context, home layout.Home, k Kernel, agent string) (string, error) {
	key, err := m.keyOf(k, agent)
	if err != nil {
		return "", fmt.Errorf("initramfs: %w", err)
	}
	path := filepath.Join(home.Initramfs(), key+".cpio")
	now := time.Now()
	if err := os.Chtimes(path, now, now); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(home.Initramfs(), 0o700); err != nil {
		return "", err
	}
	if err := write(ctx, path, key, source{k, agent}); err != nil {
		return "", fmt.Errorf("initramfs: %w", err)
	}
	return path, prune(home.Initramfs(), now.Add(-keep))
}

// keyOf is the cache key of a kernel and the agent in a file.
func (m *Maker) keyOf(k Kernel, agent string) (string, error) {
	digest, err := m.agents.sum(agent)
	if err != nil {
		return "", err
	}
	return cacheKey(k, digest), nil
}

// cacheKey names an initramfs by everything that is in it.
func cacheKey(k Kernel, agent [sha256.Size]byte) string {
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n%s\n%x\n", format, k.SHA256, strings.Join(wanted, " "), agent)
	return hex.EncodeToString(sum.Sum(nil))[:32]
}

// write makes the file under a temporary name of its own, so that two makers do
// not meet; whoever is last wins, with the same bytes. They are on the disk
// before the name is: after a power cut a cached file is whole or not there.
func write(ctx context.Context, path, key string, s source) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), layout.TempPrefix+"*.cpio")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	records, err := contents(ctx, key, s)
	if err != nil {
		return err
	}
	// It stays uncompressed: what the host saves, an emulated guest pays.
	w := cpio.Newc.Writer(f)
	if err := cpio.WriteRecords(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// source is what an initramfs is made of.
type source struct {
	kernel Kernel
	agent  string
}

// contents lists what is in the file named by key.
func contents(ctx context.Context, key string, s source) ([]cpio.Record, error) {
	init, err := os.ReadFile(s.agent)
	if err != nil {
		return nil, err
	}
	if cacheKey(s.kernel, sha256.Sum256(init)) != key {
		return nil, fmt.Errorf("%s was replaced meanwhile", s.agent)
	}
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.Directory("modules", 0o755),
		cpio.StaticFile("init", string(init), 0o755),
	}
	available, err := find(s.kernel.Modules)
	if err != nil {
		return nil, err
	}
	var order strings.Builder
	for n, name := range wanted {
		file, ok := available[name]
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		module, err := read(file)
		if err != nil {
			return nil, fmt.Errorf("module %s: %w", name, err)
		}
		entry := fmt.Sprintf("%02d-%s.ko", n, name)
		records = append(records, cpio.StaticFile(path.Join("modules", entry), module, 0o444))
		fmt.Fprintln(&order, entry)
	}
	records = append(records, cpio.StaticFile("modules/order", order.String(), 0o444))
	for i := range records {
		records[i].Ino = uint64(i + 1)
	}
	return records, nil
}

// find maps the names of modules below dir to their files. A kernel without
// modules has everything built in.
func find(dir string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(d.Name(), ".xz")
		if stem, ok := strings.CutSuffix(name, ".ko"); ok && d.Type().IsRegular() {
			found[stem] = path
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	return found, err
}

// read returns a module, decompressed.
func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(path, ".xz") {
		if r, err = xz.NewReader(f); err != nil {
			return "", err
		}
	}
	data, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(data) > maxModule {
		err = fmt.Errorf("larger than %d MiB", maxModule>>20)
	}
	return string(data), err
}

// prune removes files that nobody has asked for since before.
func prune(dir string, before time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
