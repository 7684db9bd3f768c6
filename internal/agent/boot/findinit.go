package boot

import (
	"os"
	"path/filepath"
)

// findInit looks for systemd in the image. Other inits are not run: an image
// made for containers often has one that its packages left unconfigured.
func findInit(root string) (path, kind string) {
	tree, err := os.OpenRoot(root)
	if err != nil {
		return "", None
	}
	defer tree.Close()
	for _, path := range []string{"sbin/init", "lib/systemd/systemd", "usr/lib/systemd/systemd"} {
		if isSystemd(tree, path) {
			return filepath.Join("/", path), Systemd
		}
	}
	return "", None
}

// maxLinks is the kernel's bound of links in one path.
const maxLinks = 40

// isSystemd follows the links of path, of which the image's are often absolute.
func isSystemd(tree *os.Root, path string) bool {
	for range maxLinks {
		info, err := tree.Lstat(path)
		if err != nil {
			return false
		}
		if info.Mode()&os.ModeSymlink == 0 {
			return filepath.Base(path) == "systemd" && info.Mode().IsRegular() && info.Mode()&0o111 != 0
		}
		target, err := tree.Readlink(path)
		if err != nil {
			return false
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join("/", filepath.Dir(path), target)
		}
		path = filepath.Clean(target)[1:]
	}
	return false
}
