package drivertest

import (
	"os"
	"testing"

	"github.com/banger-dev/banger/internal/driver"
)

// testResize: disks that can be written grow while the guest runs, and do not
// shrink.
func testResize(t *testing.T, make Make) {
	s := start(t, make)
	resizer, ok := s.vm.(driver.Resizer)
	if !ok {
		return
	}
	s.run()
	for _, d := range s.machine.Disks {
		info, err := os.Stat(d.Path)
		if err != nil {
			t.Fatal(err)
		}
		size := info.Size() + 1<<20
		if d.ReadOnly {
			if err := resizer.Resize(t.Context(), d.Serial, size); err == nil {
				t.Errorf("the disk %s, which is read-only, was resized", d.Serial)
			}
			continue
		}
		for range 2 { // the second is no error
			if err := resizer.Resize(t.Context(), d.Serial, size); err != nil {
				t.Fatalf("%v%s", err, s.logs())
			}
		}
		if err := resizer.Resize(t.Context(), d.Serial, info.Size()); err == nil {
			t.Errorf("the disk %s shrank", d.Serial)
		}
		if info, err = os.Stat(d.Path); err != nil || info.Size() != size {
			t.Errorf("the disk %s has %d bytes, not %d: %v", d.Serial, info.Size(), size, err)
		}
	}
	if err := resizer.Resize(t.Context(), "none", 1<<20); err == nil {
		t.Error("a disk that is not there was resized")
	}
	s.reset()
	s.identity()
}
