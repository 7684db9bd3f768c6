package fake

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/layout"
)

var (
	_ driver.Freezer  = (*instance)(nil)
	_ driver.Restorer = (*fake)(nil)
)

// endTime bounds the wait for the end of a VMM that was killed.
const endTime = 10 * time.Second

// Freeze implements driver.Freezer. What the guest keeps becomes the memory's
// file, and its checksum the devices'.
func (i *instance) Freeze(ctx context.Context, dir string) error {
	kept, err := i.freeze(ctx)
	end, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	if err := errors.Join(err, i.Kill(end)); err != nil {
		return fmt.Errorf("freeze: %w", err)
	}
	to := layout.Instance(dir)
	for path, data := range map[string][]byte{to.Memory(): kept, to.DeviceState(): checksum(kept)} {
		if err := os.WriteFile(path, data, 0o400); err != nil {
			return fmt.Errorf("freeze: %w", err)
		}
	}
	return nil
}

func (i *instance) freeze(ctx context.Context) ([]byte, error) {
	if !i.private.Freezable {
		return nil, errors.New("the VM was not started to be frozen")
	}
	if err := i.link.Close(); err != nil {
		return nil, err
	}
	answer, err := i.ask(ctx, askFreeze)
	if err != nil {
		return nil, err
	}
	kept, ok := strings.CutPrefix(answer, sayFrozen)
	if !ok {
		return nil, fmt.Errorf("fake VMM: %.100q", answer)
	}
	return []byte(kept), nil
}

func checksum(data []byte) []byte {
	sum := sha256.Sum256(data)
	return []byte(hex.EncodeToString(sum[:]))
}

// Restore implements driver.Restorer.
func (f *fake) Restore(ctx context.Context, m driver.Machine, from string, save func(driver.Handle) error) (driver.Instance, error) {
	dir := layout.Instance(from)
	kept, err := os.ReadFile(dir.Memory())
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	sum, err := os.ReadFile(dir.DeviceState())
	if err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if !bytes.Equal(sum, checksum(kept)) {
		return nil, fmt.Errorf("restore: the frozen guest in %s is damaged", from)
	}
	return f.start(ctx, m, launch{save: save, kept: kept})
}

// Fingerprint implements driver.Restorer. A caller keys its guests by all of m
// but Accel itself.
func (f *fake) Fingerprint(m driver.Machine) (string, error) {
	return string(checksum([]byte("fake 1 " + m.Accel))), nil
}
