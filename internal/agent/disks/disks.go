// Package disks finds the disks of a guest by what its VMM calls them, and grows
// the file systems on them.
package disks

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
	Base    = "base"
	Overlay = "overlay"
	Work    = "work"
)

// Find returns the device of each serial, waiting until all are there; sysBlock is
// /sys/block.
func Find(ctx context.Context, sysBlock string, serials ...string) (map[string]string, error) {
	var found map[string]string
	missing := ""
	err := uevent.Wait(ctx, func() bool {
		found = bySerial(sysBlock)
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

// bySerial lists the disks that have a serial.
func bySerial(sysBlock string) map[string]string {
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
