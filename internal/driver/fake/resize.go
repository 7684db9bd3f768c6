package fake

import (
	"context"
	"fmt"
	"os"

	"github.com/banger-dev/banger/internal/driver"
)

var _ driver.Resizer = (*instance)(nil)

// Resize implements driver.Resizer. The guest of this VMM does not look at its disks.
func (i *instance) Resize(_ context.Context, serial string, size int64) error {
	for _, d := range i.disks {
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
		return os.Truncate(d.Path, size)
	}
	return fmt.Errorf("there is no disk %q that can grow", serial)
}
