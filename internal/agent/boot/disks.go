package boot

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-dev/banger/internal/agent/uevent"
)

// The disks by the serial that the VMM gives them.
const (
	serialBase    = "base"
	serialOverlay = "overlay"
	serialWork    = "work"
)

// findDisks returns the device of each serial, waiting until all are there.
func findDisks(ctx context.Context, sysBlock string, serials ...string) (map[string]string, error) {
	var found map[string]string
	missing := ""
	err := uevent.Wait(ctx, func() bool {
		found = disksBySerial(sysBlock)
		for _, serial := range serials {
			if found[serial] == "" {
				missing = serial
				return false
			}
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("cannot find the %s disk: no disk has that serial: %w", missing, err)
	}
	return found, nil
}

// disksBySerial lists the disks that have a serial.
func disksBySerial(sysBlock string) map[string]string {
	found := make(map[string]string)
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return found
	}
	for _, e := range entries {
		serial, err := os.ReadFile(filepath.Join(sysBlock, e.Name(), "serial"))
		if err == nil {
			found[strings.TrimSpace(string(serial))] = "/dev/" + e.Name()
		}
	}
	return found
}
