package qemu

import (
	"context"
	"errors"
	"strings"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver/vmmproc"
	"github.com/banger-dev/banger/internal/layout"
)

type qemuError string

func (e qemuError) Error() string { return string(e) }

const (
	// errEnded: QEMU ended before its monitor answered.
	errEnded = qemuError("QEMU ended as it started")
	// errNoSandbox: this QEMU has no seccomp filter.
	errNoSandbox = qemuError("QEMU has no -sandbox")
)

// known are QEMU's words for what a person can mend.
func known() []struct{ words, cause, hint string } {
	return []struct{ words, cause, hint string }{
		{"Could not access KVM kernel module: Permission denied", "/dev/kvm may not be opened by this user",
			"sudo usermod -aG kvm $USER and log in again, or --accel tcg"},
		{"Could not access KVM kernel module", "this host has no usable /dev/kvm", "--accel tcg"},
		{"failed to initialize kvm", "KVM does not work on this host", "--accel tcg"},
		{"failed to set MSR", "KVM on this host cannot run an ordinary CPU", "--accel tcg"},
		{"Cannot allocate memory", "the host has not that much memory", "a smaller --memory"},
		{"cannot set up guest memory", "the host has not that much memory", "a smaller --memory"},
		{"Failed to get \"write\" lock", "a disk of this VM is in use by another VMM", "banger doctor --repair"},
		{"Failed to get shared \"write\" lock", "a disk of this VM is in use by another VMM", "banger doctor --repair"},
	}
}

// NoSandbox reports whether words, printed by QEMU, say that it was built
// without its seccomp filter.
func NoSandbox(words string) bool {
	return strings.Contains(words, "sandbox support is not enabled") || strings.Contains(words, "seccomp support is disabled")
}

// lastWords are the last lines of QEMU's output.
func lastWords(path string, lines int) string {
	return strings.ReplaceAll(vmmproc.Tail(path, lines), binName+": ", "")
}

// startError says why QEMU did not start, in its own last words.
func startError(dir layout.Instance, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	words := lastWords(dir.VMMLog(), 3)
	if NoSandbox(words) {
		return errNoSandbox
	}
	for _, k := range known() {
		if strings.Contains(words, k.words) {
			return banger.Errorf(banger.CodeUnavailable, "start QEMU: %s (%s)", k.cause, words).WithHint("%s", k.hint)
		}
	}
	if words == "" {
		words = "it printed nothing"
	}
	var known *banger.Error
	if errors.As(err, &known) {
		return err
	}
	return banger.Errorf(banger.CodeFailed, "start QEMU: %w: %s", err, words).
		WithHint("less %s", dir.VMMLog())
}
