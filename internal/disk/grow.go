package disk

import (
	"fmt"
	"os"

	banger "github.com/banger-dev/banger"
)

// RoundUp is the size that a disk of at least bytes has.
func RoundUp(bytes int64) int64 { return (bytes + blockSize - 1) / blockSize * blockSize }

// Grow makes the file of a disk that nobody uses size bytes large; the new part is a
// hole. The file system on it is the guest's to grow. A disk that is as large or
// larger stays as it is.
func Grow(path string, size int64) error {
	if size > MaxSize {
		return banger.Errorf(banger.CodeUsage, "a disk of %s is not possible: it has at most %s",
			banger.FormatSize(size), banger.FormatSize(MaxSize))
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() >= size {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return explain(path, err)
	}
	return explain(path, f.Sync())
}
