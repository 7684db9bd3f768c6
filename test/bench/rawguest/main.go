// Command rawguest is the first process of the VM with which pipes are compared:
// it runs a command of the image on a disk and copies its stdout to, or its
// stdin from, a virtio-serial port. Beside it, it serves TCP (serveTCP), which is
// also what it does alone when it is called with "serve".
//
// The host writes lines on the ctl port, and gets "done" or an error for each:
//
//	out N    head -c N /dev/zero, its output on the data port
//	in N     sh -c 'cat >/dev/null', its input the next N bytes of the data port
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/agent/link"
)

// root is where the image is mounted.
const root = "/base"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		fmt.Fprintln(os.Stderr, serveTCP(os.Stdout))
		os.Exit(1)
	}
	err := run()
	fmt.Fprintln(os.Stderr, "raw guest: failed:", err)
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := mounts([]mount{{"devtmpfs", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sysfs", "/sys", "sysfs"}}); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := mounts([]mount{{"/dev/vda", root, "ext4"}, {"devtmpfs", root + "/dev", "devtmpfs"}}); err != nil {
		return err
	}
	ctl, err := link.OpenPort(context.Background(), link.CtlPort)
	if err != nil {
		return err
	}
	data, err := link.OpenPort(context.Background(), link.DataPort)
	if err != nil {
		return err
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	go func() { fmt.Fprintln(console, "raw guest:", serveTCP(io.Discard)) }()
	fmt.Fprintln(console, "bench: raw")
	lines := bufio.NewScanner(ctl)
	for lines.Scan() {
		answer := "done"
		if err := serve(lines.Text(), data); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := fmt.Fprintln(ctl, answer); err != nil {
			return err
		}
	}
	return lines.Err()
}

type mount struct{ what, where, kind string }

func mounts(all []mount) error {
	for _, m := range all {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		flags := uintptr(0)
		if m.kind == "ext4" {
			flags = unix.MS_RDONLY
		}
		if err := unix.Mount(m.what, m.where, m.kind, flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	return nil
}

// loadModules loads what the file "order" in dir names.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// serve does what one line asks for.
func serve(line string, data *link.Port) error {
	verb, count, _ := strings.Cut(line, " ")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return err
	}
	switch verb {
	case "out":
		return out(n, data)
	case "in":
		return in(n, data)
	}
	return fmt.Errorf("%q is not known", verb)
}

// command prepares a command of the image.
func command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	return cmd
}

// block is how much is copied at once: what the port takes in one write.
const block = 32 << 10

func out(n int64, data *link.Port) error {
	cmd := command("/usr/bin/head", "-c", strconv.FormatInt(n, 10), "/dev/zero")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := forward(data, pipe, n); err != nil {
		return err
	}
	return cmd.Wait()
}

func in(n int64, data *link.Port) error {
	cmd := command("/bin/sh", "-c", "cat >/dev/null")
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := forward(pipe, data, n); err != nil {
		return err
	}
	if err := pipe.Close(); err != nil {
		return err
	}
	return cmd.Wait()
}

// forward copies n bytes, block by block.
func forward(to io.Writer, from io.Reader, n int64) error {
	buf := make([]byte, block)
	for n > 0 {
		got, err := from.Read(buf[:min(n, block)])
		if got > 0 {
			if _, err := to.Write(buf[:got]); err != nil {
				return err
			}
		}
		if n -= int64(got); err != nil && n > 0 {
			return err
		}
	}
	return nil
}
