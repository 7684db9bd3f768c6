package qemu

import (
	"context"
	"fmt"
	"os"

	"github.com/banger-dev/banger/internal/driver"
)

var _ driver.Resizer = (*instance)(nil)

// Resize implements driver.Resizer.
func (i *instance) Resize(ctx context.Context, serial string, size int64) error {
	for _, d := range i.machine.Disks {
		if d.Serial != serial || d.ReadOnly {
			continue
		}
		info, err := os.Stat(d.Path)
		if err != nil {
			return err
		}
		if info.Size() > size {
			return fmt.Errorf("the %s disk has %d bytes, and does not shrink to %d", serial, info.Size(), size)
		}
		return i.monitor.run(ctx, command{name: "block_resize", args: resize{nodeName(serial), size}}, nil)
	}
	return fmt.Errorf("there is no disk %q that can grow", serial)
}

// resize is the arguments of block_resize.
type resize struct {
	Node string `json:"node-name"`
	Size int64  `json:"size"`
}

// nodeName is what QEMU knows a disk by.
func nodeName(serial string) string { return "disk-" + serial }
