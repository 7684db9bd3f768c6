package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	banger "github.com/banger-dev/banger"
)

// Bounds of a kernel package: Debian's cloud kernels have 1,200 files and
// 110 MB.
const (
	maxFiles    = 50_000
	maxUnpacked = 2 << 30
)

// unpack writes the kernel image of a verified .deb to image and its modules to
// the directory modules. dpkg-deb is on every host that has apt and undoes xz
// several times faster than Go does.
func unpack(ctx context.Context, deb, image, modules string) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	// The death signal is tied to the thread that starts the program.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return banger.Errorf(banger.CodeUnavailable, "dpkg-deb is not installed").WithHint("install dpkg")
		}
		return err
	}
	unpackErr := unpackTar(stdout, image, modules)
	if unpackErr != nil {
		cmd.Process.Kill()
	}
	waitErr := cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case unpackErr != nil:
		return unpackErr
	case waitErr != nil:
		return fmt.Errorf("dpkg-deb: %w: %s", waitErr, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// unpackTar takes the kernel image and the modules out of a package's tar.
func unpackTar(r io.Reader, image, modules string) error {
	var files, bytes int64
	haveImage := false
	for tr := tar.NewReader(r); ; {
		header, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("package: %w", err)
		}
		files++
		bytes += header.Size
		if files > maxFiles || bytes > maxUnpacked {
			return errors.New("package: it is larger than any kernel")
		}
		target := place(header, image, modules)
		if target == "" {
			continue
		}
		haveImage = haveImage || target == image
		if err := writeFile(target, tr); err != nil {
			return err
		}
	}
	if !haveImage {
		return errors.New("package: there is no kernel in it")
	}
	// The rest of the archive's padding is read, so that its writer ends well.
	_, err := io.Copy(io.Discard, r)
	return err
}

// place says where an entry goes, "" for nowhere. Only plain files are taken.
func place(header *tar.Header, image, modules string) string {
	if header.Typeflag != tar.TypeReg {
		return ""
	}
	name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
	if strings.HasPrefix(name, "boot/vmlinuz-") && strings.Count(name, "/") == 1 {
		return image
	}
	for _, prefix := range []string{"lib/modules/", "usr/lib/modules/"} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if _, inside, ok := strings.Cut(rest, "/"); ok && filepath.IsLocal(inside) {
			return filepath.Join(modules, inside)
		}
	}
	return ""
}

func writeFile(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
