// Package daemontest lets bangerd be tested without virtual machines: assets
// that cost nothing, and a supervisor and a VMM that are real processes with
// the real sockets and files, and no guest.
package daemontest

import (
	"context"
	"os"
	"path/filepath"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/daemon"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/vmhost"
)

// The names that the assets know.
const (
	Image  = "debian-bookworm"
	Kernel = "debian-6.1"
	// ImageID is the digest of every image.
	ImageID = "0123abcd"
	// KernelSHA256 is that of every kernel.
	KernelSHA256 = "4567ef"
	// StuckImage is never made: who asks for it waits until he gives up.
	StuckImage = "stuck"
)

// FreeVar is an environment variable that says how many bytes are free.
const FreeVar = "BANGER_TEST_NO_SPACE"

// Assets returns assets below home. qemu is the VMM's program.
func Assets(home layout.Home, qemu string) daemon.Assets {
	return daemon.Assets{
		KernelOf: func(name string) (string, error) {
			if name != Image && name != StuckImage {
				return "", banger.Errorf(banger.CodeNotFound, "image %q is not local and not in the catalog", name).
					WithHint("banger image list --available")
			}
			return Kernel, nil
		},
		Image: func(ctx context.Context, name string, p banger.ProgressFunc) (daemon.Image, error) {
			p(banger.Progress{Stage: "image", Detail: "looking"})
			if name == StuckImage {
				<-ctx.Done()
				return daemon.Image{}, context.Cause(ctx)
			}
			base := home.Image(name).Base()
			return daemon.Image{Name: name, ID: ImageID, Base: base}, touch(base)
		},
		KernelLocal: func(name string) (bool, error) {
			if name != Kernel {
				return false, banger.Errorf(banger.CodeNotFound, "kernel %q is not local and not in the catalog", name)
			}
			return true, nil
		},
		Kernel: func(_ context.Context, name string, _ banger.ProgressFunc) (daemon.Kernel, error) {
			path := home.Kernel(name).Vmlinux()
			return daemon.Kernel{Name: name, SHA256: KernelSHA256, Vmlinux: path, Initrd: path}, touch(path)
		},
		Images: func(bool) ([]*bangerv1.Image, error) {
			return []*bangerv1.Image{{Name: Image, Id: ImageID, Local: true}}, nil
		},
		Kernels: func(bool) ([]*bangerv1.Kernel, error) {
			return []*bangerv1.Kernel{{Name: Kernel, Local: true}}, nil
		},
		Disk: sparse,
		Free: func(path string) (int64, error) {
			if text := os.Getenv(FreeVar); text != "" {
				return banger.ParseSize(text)
			}
			return disk.Free(path)
		},
		Probe: func(context.Context, *daemon.Kernel) (vmhost.Found, error) {
			return vmhost.Found{
				QEMU: vmhost.QEMU{Path: qemu, Version: "0"}, Accel: "tcg",
				KVM: vmhost.KVM{Reason: "this is a test"}, Confinement: []string{"nothing"},
			}, nil
		},
	}
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, nil, 0o600)
}

// sparse makes a file of the size that a disk would have.
func sparse(ctx context.Context, path string, size int64, _ string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	return ctx.Err()
}
