package boot

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// switchRoot makes dir the root of this process, and frees the initramfs.
func switchRoot(dir string) error {
	old, err := os.OpenRoot("/")
	if err != nil {
		return err
	}
	defer old.Close()
	for _, dir := range []string{"/dev", "/sys", "/proc"} {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("cannot let go of %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("cannot enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot enter the new root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// Only what is known to lie in the initramfs itself: nothing here may ever
	// reach into a disk. The agent's program stays until its last process ends.
	for _, name := range []string{"init", "modules"} {
		if err := old.RemoveAll(name); err != nil {
			return fmt.Errorf("cannot free the initramfs: %w", err)
		}
	}
	return nil
}
