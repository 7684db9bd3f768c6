// Package template keeps templates on disk: VMs that were frozen when their
// system was ready, and that new VMs are started from. A template is named by
// everything that it depends on, so that nothing is ever compared: what has
// another name is another template. That its files are those that were sealed is
// seen from their sizes and times whenever it is looked for.
//
// A directory in the store is a template once it has its name; what is being
// made, or removed, has layout.TempPrefix before it. Nothing in a template
// changes: its files have mode 0400. One may be removed at any time: VMs that were
// started from it keep the files that they have mapped, and no successor of a
// supervisor, and no later start, looks for it again.
package template

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/banger-dev/banger/internal/layout"
)

// format changes when what is in a template's directory, or what was done to
// its guest, would be another thing for the same inputs.
const format = "2"

// Inputs are what a template depends on.
type Inputs struct {
	// ImageDigest is the image's id, KernelSHA256 the vmlinux's.
	ImageDigest  string `json:"image_digest"`
	KernelSHA256 string `json:"kernel_sha256"`
	// Initramfs names the initramfs by its content: the agent's build is in it.
	Initramfs string `json:"initramfs"`
	// Fingerprint is the driver's word for VMM, machine and CPU.
	Fingerprint  string `json:"fingerprint"`
	Driver       string `json:"driver"`
	Accel        string `json:"accel"`
	VCPU         int    `json:"vcpu"`
	MemoryMiB    int64  `json:"memory_mib"`
	DiskBytes    int64  `json:"disk_bytes"`
	OverlayBytes int64  `json:"overlay_bytes"`
}

// Key names the template of these inputs: 64 hex digits.
func (i Inputs) Key() string {
	data, err := json.Marshal(i)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.New()
	sum.Write([]byte(format + "\n"))
	sum.Write(data)
	return hex.EncodeToString(sum.Sum(nil))
}

// Manifest says what a template is. It is written when all else is on disk.
type Manifest struct {
	Inputs
	// Image and Kernel are the names that its inputs had.
	Image   string    `json:"image"`
	Kernel  string    `json:"kernel"`
	Created time.Time `json:"created"`
	// Format is that of banger's which made it.
	Format string `json:"format"`
	// Files are what VMs start from.
	Files []File `json:"files"`
}

// Template is a template that is there.
type Template struct {
	Manifest
	Key string
	Dir layout.Instance
	// Used is when a VM was last started from it, or when it was made.
	Used time.Time
	// Size is the storage that it takes, in bytes.
	Size int64
	// Damaged says why nothing can be started from it; empty: nothing speaks
	// against it. If its manifest cannot be believed there is none.
	Damaged string
}
