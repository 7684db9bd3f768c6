package daemon

import (
	"context"
	"log/slog"
	"time"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/vmhost"
)

// Options are what a daemon is made from.
type Options struct {
	Home layout.Home
	// Config reads the user's config; it is read anew for each new VM and each
	// start, so that nobody has to restart the daemon.
	Config func() (config.Config, error)
	Host   config.Host
	Assets Assets
	// Load is the host's load: how many threads wish to run.
	Load func() (float64, error)
	// Supervisor is the path of banger-vm.
	Supervisor string
	Log        *slog.Logger
	// LeaseGrace is how long an ephemeral VM lives without a lease.
	LeaseGrace time.Duration
}

// The limits of the daemon.
const (
	// readyTimeout and stopTimeout hold where a request names none.
	readyTimeout = 90 * time.Second
	stopTimeout  = 20 * time.Second
	// undoTimeout bounds the cleanup of what was begun; it runs detached from
	// whoever cancelled.
	undoTimeout = 10 * time.Second
	// adoptBudget bounds the wait for all supervisors at the start, together, and
	// with it what the first request waits.
	adoptBudget = 2 * time.Second
	// LeaseGrace is the grace of a lease that was lost.
	LeaseGrace = 10 * time.Second
	// spansWithin bounds the wait for a supervisor's part of a trace.
	spansWithin = 2 * time.Second
	// heartbeat is how often a client that waits for a guest hears of it.
	heartbeat = time.Second
)

// Assets makes what VMs are built from.
type Assets struct {
	// KernelOf names the kernel of an image without fetching anything. An
	// image that is neither local nor in the catalog is not_found.
	KernelOf func(image string) (string, error)
	// Image returns the image, fetching or building it as needed.
	Image func(ctx context.Context, name string, p banger.ProgressFunc) (Image, error)
	// KernelLocal reports whether the kernel is here; one that is neither here
	// nor in the catalog is not_found.
	KernelLocal func(name string) (bool, error)
	// Kernel returns the kernel and its initramfs, fetching and building as
	// needed.
	Kernel func(ctx context.Context, name string, p banger.ProgressFunc) (Kernel, error)
	// Images and Kernels list what is local and, with available, the catalog.
	Images  func(available bool) ([]*bangerv1.Image, error)
	Kernels func(available bool) ([]*bangerv1.Kernel, error)
	// Disk makes an empty sparse ext4 of size bytes.
	Disk func(ctx context.Context, path string, size int64, label string) error
	// Free is the space left for path, in bytes.
	Free func(path string) (int64, error)
	// Probe finds out what can run VMs; kernel may be nil.
	Probe func(ctx context.Context, kernel *Kernel) (vmhost.Found, error)
}

// Image is a local image.
type Image struct {
	// ID is its digest, Base its read-only ext4.
	Name, ID, Base string
}

// Kernel is a local kernel with its initramfs.
type Kernel struct {
	// SHA256 is that of the vmlinux; Initrd's name is that of its content.
	Name, SHA256, Vmlinux, Initrd string
}
