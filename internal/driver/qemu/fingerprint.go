package qemu

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
)

// cpuInfo is where Linux describes the host's CPUs.
const cpuInfo = "/proc/cpuinfo"

// fingerprint is what a frozen guest depends on, hashed as JSON.
type fingerprint struct {
	Format    int
	QEMU      string // its file, links resolved
	Size      int64
	Changed   int64 // unix ns
	CPU       []string
	Kernel    string // the host's, with KVM
	Arguments []string
}

// Fingerprint implements driver.Restorer. Of m it uses Accel and Bin only: a
// caller keys its guests by VCPU, MemoryMiB, Kernel, Initrd and the order, sizes
// and contents of Disks itself.
func (q *qemu) Fingerprint(m driver.Machine) (string, error) {
	bin, err := FindBinary(m.Bin)
	if err != nil {
		return "", err
	}
	f := fingerprint{Format: frozenFormat}
	if f.QEMU, err = filepath.EvalSymlinks(bin); err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	st, err := os.Stat(f.QEMU)
	if err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	f.Size, f.Changed = st.Size(), st.ModTime().UnixNano()
	if f.CPU, err = hostCPU(cpuInfo); err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	if m.Accel == "kvm" {
		var name unix.Utsname
		if err := unix.Uname(&name); err != nil {
			return "", fmt.Errorf("fingerprint: %w", err)
		}
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	if f.Arguments, err = exemplar(m.Accel); err != nil {
		return "", fmt.Errorf("fingerprint: %w", err)
	}
	text, err := json.Marshal(f)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// exemplar is the command line of a machine that is equal in everything that
// callers do not key: how a disk is attached is in it, but not which there are.
func exemplar(accel string) ([]string, error) {
	return arguments(driver.Machine{
		ID: "x", VCPU: 1, MemoryMiB: 1, Accel: accel, Kernel: "/kernel", Initrd: "/initrd", Dir: "/", Freezable: true,
		Disks: []driver.Disk{{Serial: "base", Path: "/base", ReadOnly: true}, {Serial: "work", Path: "/work"}},
	}, options{})
}

// hostCPU is what a guest may have found out about the host's CPU: the lines of
// the first processor that do not change while it runs.
func hostCPU(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []string
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if name, value, ok := strings.Cut(line, ":"); ok {
			switch name = strings.TrimSpace(name); name {
			case "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags":
				lines = append(lines, name+": "+strings.TrimSpace(value))
			}
		}
		if err == io.EOF || strings.TrimSpace(line) == "" && len(lines) > 0 {
			return lines, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
