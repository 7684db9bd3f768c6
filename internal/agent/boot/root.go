package boot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/banger-dev/banger/internal/agent/disks"
	"golang.org/x/sys/unix"
)

// Mount points in the initramfs. Nothing of them is left when the root has been
// put together.
const (
	newRoot    = "/new"
	baseDir    = "/disk/base"
	overlayDir = "/disk/overlay"
	workDir    = "/disk/work"
)

// volumes are directories that programs expect to be no overlay: container
// engines put overlays of their own there.
var volumes = []string{"var/lib/docker", "var/lib/containerd", "var/lib/containers"}

// mountRoot makes the new root of the base and overlay disks, with the kernel's
// file systems: all that the agent's answer needs.
func mountRoot(devices map[string]string) error {
	if err := mountOverlay(devices); err != nil {
		return err
	}
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	return mountKernel(root)
}

// completeRoot mounts the rest: the work disk and the volumes.
func completeRoot(devices map[string]string) error {
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := mountWork(root, devices); err != nil {
		return err
	}
	for _, path := range volumes {
		if err := mountVolume(root, path); err != nil {
			fmt.Fprintf(os.Stderr, "banger: /%s stays on the overlay: %v\n", path, err)
		}
	}
	// The overlay and the bind mounts keep the disks; nothing else is to.
	for _, dir := range []string{baseDir, overlayDir, workDir} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("cannot let go of %s: %w", dir, err)
		}
	}
	return nil
}

// mountDisk mounts the disk with that serial at dir.
func mountDisk(devices map[string]string, serial, dir string, flags uintptr) error {
	m := mount{devices[serial], dir, "ext4", flags, ""}
	if err := m.do(); err != nil {
		return fmt.Errorf("cannot mount the %s disk (%s): %w", serial, m.source, errors.Unwrap(err))
	}
	return nil
}

// growDisk grows the file system at dir to what its disk has, which may have become
// more while the VM was off. Without that the VM is as it was.
func growDisk(device, dir string) {
	if err := disks.GrowMounted(device, dir); err != nil {
		fmt.Fprintf(os.Stderr, "banger: a disk has grown and its file system has not: %v\n", err)
	}
}

// mountOverlay mounts the base disk and the overlay disk, and one over the other.
func mountOverlay(devices map[string]string) error {
	if err := mountDisk(devices, disks.Base, baseDir, unix.MS_RDONLY); err != nil {
		return err
	}
	if err := mountDisk(devices, disks.Overlay, overlayDir, 0); err != nil {
		return err
	}
	growDisk(devices[disks.Overlay], overlayDir)
	upper, work := filepath.Join(overlayDir, "upper"), filepath.Join(overlayDir, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot prepare the overlay disk: %w", err)
		}
	}
	// redirect_dir lets a directory of the image be renamed, and xino gives
	// files of both layers one device number: programs expect both of a root.
	options := "lowerdir=" + baseDir + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=on,xino=on"
	overlay := mount{"overlay", newRoot, "overlay", 0, options}
	if err := overlay.do(); err != nil {
		return fmt.Errorf("cannot mount overlay: %w", errors.Unwrap(err))
	}
	return nil
}

// mountWork mounts the work disk, fills it if it is new, and has its files at
// /root.
func mountWork(root *os.Root, devices map[string]string) error {
	if err := mountDisk(devices, disks.Work, workDir, 0); err != nil {
		return err
	}
	growDisk(devices[disks.Work], workDir)
	dir, target, err := inRoot(root, "root", 0o700)
	if err != nil {
		return fmt.Errorf("cannot mount the work disk at /root: %w", err)
	}
	defer dir.Close()
	home, err := fillHome(target, workDir)
	if err != nil {
		return fmt.Errorf("cannot fill the work disk from the image's /root: %w", err)
	}
	if err := unix.Mount(home, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot mount the work disk at /root: %w", err)
	}
	return nil
}

// mountKernel gives the new root the kernel's file systems.
func mountKernel(root *os.Root) error {
	for _, m := range []mount{
		{"/dev", "dev", "", unix.MS_BIND, ""},
		{"/proc", "proc", "", unix.MS_BIND, ""},
		{"/sys", "sys", "", unix.MS_BIND, ""},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"},
		{"tmpfs", "dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%"},
		{"cgroup2", "sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate,memory_recursiveprot"},
	} {
		if err := mountIn(root, m); err != nil {
			return err
		}
	}
	return completeTree(root)
}

// completeTree makes what every program expects and a bare image may lack.
func completeTree(root *os.Root) error {
	for _, link := range [][2]string{
		{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"},
		{"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"},
	} {
		if err := root.Symlink(link[0], link[1]); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if _, err := root.Lstat("tmp"); errors.Is(err, os.ErrNotExist) {
		if err := root.Mkdir("tmp", 0o777); err != nil {
			return err
		}
		return root.Chmod("tmp", 0o777|os.ModeSticky)
	}
	return nil
}

// mountVolume mounts a directory of the overlay disk itself at path, unless
// the image brings files there that it would hide.
func mountVolume(root *os.Root, path string) error {
	source := filepath.Join(overlayDir, "volumes", filepath.Base(path))
	if err := os.MkdirAll(source, 0o711); err != nil {
		return err
	}
	dir, target, err := inRoot(root, path, 0o711)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.ReadDir(1); err != io.EOF {
		return nil
	}
	return unix.Mount(source, target, "", unix.MS_BIND, "")
}
