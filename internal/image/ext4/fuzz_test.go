package ext4

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	banger "github.com/banger-dev/banger"
)

// FuzzConvert feeds what no tar program writes: it must be refused in words, or
// taken within the limits.
func FuzzConvert(f *testing.F) {
	f.Add(archive(f, rootFS()...))
	f.Add(archive(f, dir("a", 0o755), link(tar.TypeSymlink, "a/b", "../c"), regular("c", 0o600, "x").xattr("user.k", "v")))
	f.Add([]byte{})
	limits := Limits{Bytes: 4 * banger.MiB, Entries: 100, PathBytes: 64 << 10}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = checksummed(data)
		disk := &memoryDisk{}
		if err := Convert(t.Context(), bytes.NewReader(data), disk, limits); err != nil {
			var e *banger.Error
			if !errors.As(err, &e) {
				t.Errorf("not an error for a person: %v", err)
			}
			return
		}
		if int64(len(disk.data)) > limits.Bytes {
			t.Errorf("%d bytes, more than allowed", len(disk.data))
		}
	})
}

// checksummed mends the checksums of headers, so that changed ones are read.
func checksummed(data []byte) []byte {
	data = bytes.Clone(data)
	for block := data; len(block) >= blockSize; block = block[blockSize:] {
		if !bytes.HasPrefix(block[257:], []byte("ustar")) {
			continue
		}
		copy(block[148:156], "        ")
		sum := 0
		for _, b := range block[:blockSize] {
			sum += int(b)
		}
		copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return data
}

// memoryDisk is a file in memory.
type memoryDisk struct {
	data []byte
	pos  int64
}

func (d *memoryDisk) Read(p []byte) (int, error) {
	if d.pos >= int64(len(d.data)) {
		return 0, io.EOF
	}
	n := copy(p, d.data[d.pos:])
	d.pos += int64(n)
	return n, nil
}

func (d *memoryDisk) Write(p []byte) (int, error) {
	if end := d.pos + int64(len(p)); end > int64(len(d.data)) {
		d.data = append(d.data, make([]byte, end-int64(len(d.data)))...)
	}
	n := copy(d.data[d.pos:], p)
	d.pos += int64(n)
	return n, nil
}

func (d *memoryDisk) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		d.pos = offset
	case io.SeekCurrent:
		d.pos += offset
	case io.SeekEnd:
		d.pos = int64(len(d.data)) + offset
	default:
		return 0, fmt.Errorf("whence %d", whence)
	}
	return d.pos, nil
}
