package daemon

import (
	"context"
	"log/slog"
	"runtime/debug"
	"runtime/metrics"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/image"
	"github.com/banger-dev/banger/internal/initramfs"
	"github.com/banger-dev/banger/internal/kernel"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/vmhost"
)

// binaries are the programs beside bangerd.
type binaries struct{ supervisor, agent string }

// hostAssets are the real ones: Debian's kernels and images, made on this host.
func hostAssets(home layout.Home, cfg func() (config.Config, error), bin binaries, log *slog.Logger) Assets {
	images := image.New(image.Options{Home: home, Log: log})
	kernels := kernel.New(kernel.Options{Home: home, Log: log})
	initrds := new(initramfs.Maker)
	return Assets{
		KernelOf: func(name string) (string, error) { return kernelOf(images, name) },
		Image: func(ctx context.Context, name string, p banger.ProgressFunc) (Image, error) {
			defer giveBack()
			c, err := cfg()
			if err != nil {
				return Image{}, err
			}
			found, err := image.New(image.Options{Home: home, Mirror: c.Mirror, Log: log}).Ensure(ctx, name, p)
			if err != nil {
				return Image{}, err
			}
			return Image{Name: found.Name, ID: found.ID, Base: found.Base()}, nil
		},
		KernelLocal: func(name string) (bool, error) { return kernelLocal(kernels, name) },
		Kernel: func(ctx context.Context, name string, p banger.ProgressFunc) (Kernel, error) {
			defer giveBack()
			c, err := cfg()
			if err != nil {
				return Kernel{}, err
			}
			found, err := kernel.New(kernel.Options{Home: home, Mirror: c.Mirror, Log: log}).Ensure(ctx, name, p)
			if err != nil {
				return Kernel{}, err
			}
			initrd, err := initrds.Ensure(ctx, home, initramfs.Kernel{SHA256: found.SHA256, Modules: found.Modules()}, bin.agent)
			return Kernel{Name: found.Name, SHA256: found.SHA256, Vmlinux: found.Vmlinux(), Initrd: initrd}, err
		},
		Images:  func(available bool) ([]*bangerv1.Image, error) { return listImages(images, available) },
		Kernels: func(available bool) ([]*bangerv1.Kernel, error) { return listKernels(kernels, available) },
		Disk:    disk.CreateExt4,
		Free:    disk.Free,
		Probe:   func(ctx context.Context, k *Kernel) (vmhost.Found, error) { return probe(ctx, bin, cfg, k) },
	}
}

// muchMemory is more than an idle daemon needs, in bytes.
const muchMemory = 8 << 20

// giveBack returns the memory that the making of an asset took to the host: the
// daemon is idle most of its life. With an asset that was there it does nothing.
func giveBack() {
	held := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}}
	metrics.Read(held)
	if held[0].Value.Uint64()+held[1].Value.Uint64() > muchMemory {
		debug.FreeOSMemory()
	}
}

// probe asks banger-vm, with the kernel that a VM would boot if it is known.
func probe(ctx context.Context, bin binaries, cfg func() (config.Config, error), k *Kernel) (vmhost.Found, error) {
	c, err := cfg()
	if err != nil {
		return vmhost.Found{}, err
	}
	q := vmhost.Question{Supervisor: bin.supervisor, QEMU: c.QEMUBin}
	if k != nil {
		q.Kernel, q.Initrd = k.Vmlinux, k.Initrd
	}
	return vmhost.Ask(ctx, q)
}

// kernelOf is the kernel of an image that is here or in the catalog.
func kernelOf(images *image.Store, name string) (string, error) {
	found, err := images.Get(name)
	if err == nil {
		return found.Kernel, nil
	}
	if banger.CodeOf(err) == banger.CodeNotFound {
		for _, entry := range catalog.Images() {
			if entry.Name == name {
				return entry.Kernel, nil
			}
		}
	}
	return "", err
}

// kernelLocal reports whether a kernel is here; one that nobody has is an error.
func kernelLocal(kernels *kernel.Store, name string) (bool, error) {
	_, err := kernels.Get(name)
	if err == nil {
		return true, nil
	}
	if banger.CodeOf(err) == banger.CodeNotFound {
		for _, entry := range catalog.Kernels() {
			if entry.Name == name {
				return false, nil
			}
		}
	}
	return false, err
}

func listImages(images *image.Store, available bool) ([]*bangerv1.Image, error) {
	local, err := images.List()
	if err != nil {
		return nil, err
	}
	descriptions, listed := map[string]string{}, map[string]bool{}
	for _, entry := range catalog.Images() {
		descriptions[entry.Name] = entry.Description
	}
	var all []*bangerv1.Image
	for _, i := range local {
		listed[i.Name] = true
		all = append(all, &bangerv1.Image{
			Name: i.Name, Id: i.ID, Source: i.Source, SizeBytes: i.Size, Kernel: i.Kernel,
			CreatedUnixMs: i.Created.UnixMilli(), Description: descriptions[i.Name], Local: true,
		})
	}
	for _, entry := range catalog.Images() {
		if available && !listed[entry.Name] {
			all = append(all, &bangerv1.Image{
				Name: entry.Name, Source: entry.Kind, Kernel: entry.Kernel, Description: entry.Description,
			})
		}
	}
	return all, nil
}

func listKernels(kernels *kernel.Store, available bool) ([]*bangerv1.Kernel, error) {
	local, err := kernels.List()
	if err != nil {
		return nil, err
	}
	descriptions, listed := map[string]string{}, map[string]bool{}
	for _, entry := range catalog.Kernels() {
		descriptions[entry.Name] = entry.Description
	}
	var all []*bangerv1.Kernel
	for _, k := range local {
		listed[k.Name] = true
		all = append(all, &bangerv1.Kernel{
			Name: k.Name, Version: k.Version, Distro: k.Distro, Arch: k.Arch, Sha256: k.SHA256, Source: k.Source,
			CreatedUnixMs: k.Created.UnixMilli(), Local: true, Description: descriptions[k.Name],
		})
	}
	for _, entry := range catalog.Kernels() {
		if available && !listed[entry.Name] {
			all = append(all, &bangerv1.Kernel{
				Name: entry.Name, Distro: entry.Distro, Arch: entry.Arch, Source: entry.Package, Description: entry.Description,
			})
		}
	}
	return all, nil
}
