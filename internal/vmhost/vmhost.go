// Package vmhost asks banger-vm what can run VMs on this host. banger-vm finds
// out by running one, and remembers the answer for this boot of the host.
package vmhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	// probeTime bounds a probe: it boots a kernel twice, perhaps under
	// emulation.
	probeTime = 90 * time.Second
	// maxProbe bounds its answer in bytes.
	maxProbe = 1 << 20
)

// Found is what can run VMs on this host.
type Found struct {
	QEMU QEMU `json:"qemu"`
	KVM  KVM  `json:"kvm"`
	// Confinement are the layers that contain a VMM here, strongest first;
	// Unconfined those of a full confinement that this host does not give.
	Confinement []string `json:"confinement"`
	Unconfined  []string `json:"unconfined"`
	// Accel is the accelerator to use: "kvm" or "tcg".
	Accel string `json:"accel"`
}

// QEMU is the emulator; Path is empty if there is none.
type QEMU struct {
	Path    string `json:"path"`
	Version string `json:"version"`
	// Problem says why it cannot be used, Hint what mends that; both may be
	// empty.
	Problem string `json:"problem"`
	Hint    string `json:"hint"`
}

// KVM is the kernel's virtualisation; Reason says why it is usable or not.
type KVM struct {
	Usable bool   `json:"usable"`
	Reason string `json:"reason"`
	Hint   string `json:"hint"`
}

// Question is what to ask, and of whom.
type Question struct {
	// Supervisor is the path of banger-vm.
	Supervisor string
	// QEMU is the program; empty: from PATH.
	QEMU string
	// Kernel and Initrd are what a VM would boot; without them the answer
	// about KVM is less sure.
	Kernel, Initrd string
}

// Ask returns the answer. What cannot be used is part of it; the error is for a
// question that could not be put.
func Ask(ctx context.Context, q Question) (Found, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	args := []string{"probe", "--json"}
	if q.QEMU != "" {
		args = append(args, "--qemu", q.QEMU)
	}
	if q.Kernel != "" {
		args = append(args, "--kernel", q.Kernel, "--initrd", q.Initrd)
	}
	cmd := exec.CommandContext(ctx, q.Supervisor, args...)
	cmd.WaitDelay = time.Second
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return Found{}, fmt.Errorf("the probe did not end: %w", ctx.Err())
		}
		return Found{}, fmt.Errorf("the probe failed: %s", lastWords(words.String(), err))
	}
	return decode(out.Bytes())
}

// lastWords is the last line that the probe wrote, or how it ended.
func lastWords(text string, ended error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimPrefix(lines[len(lines)-1], "banger-vm: "); last != "" {
		return last
	}
	return ended.Error()
}

func decode(data []byte) (Found, error) {
	if len(data) > maxProbe {
		return Found{}, fmt.Errorf("the probe's answer is too long: %d bytes", len(data))
	}
	var found Found
	if err := json.Unmarshal(data, &found); err != nil {
		return Found{}, fmt.Errorf("the probe's answer: %w", err)
	}
	return found, nil
}
