package kernel

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Bounds of a kernel, in bytes: Debian's are 8 MB and 45 MB.
const (
	maxImage   = 128 << 20
	maxVmlinux = 512 << 20
)

// The parts of a bzImage's header that say where the compressed kernel is
// (Linux, Documentation/arch/x86/boot.rst).
const (
	setupSectsAt    = 0x1f1
	headerMagicAt   = 0x202
	versionAt       = 0x206
	payloadOffsetAt = 0x248
	payloadLengthAt = 0x24c
	headerSize      = 0x250
	sector          = 512
	// payloadVersion is the first protocol version with the payload fields.
	payloadVersion = 0x0208
)

// ELF header, as far as it is looked at: a 64-bit little-endian x86-64 file.
var elfMagic = []byte{0x7f, 'E', 'L', 'F', 2, 1}

const (
	elfMachineAt = 18
	elfX8664     = 62
	elfHeader    = 64
)

var errNotBzImage = errors.New("not a bzImage kernel")

// Vmlinux writes the ELF kernel in a bzImage to w. An image that is an ELF
// kernel itself is copied.
func Vmlinux(w io.Writer, image []byte) error {
	if bytes.HasPrefix(image, elfMagic) {
		return copyELF(w, bytes.NewReader(image))
	}
	payload, err := payloadOf(image)
	if err != nil {
		return err
	}
	r, err := decompressor(payload)
	if err != nil {
		return err
	}
	// Not every form says where it ends: without the size, a payload that was
	// cut at a block would pass for a kernel.
	counted := &counter{w: w}
	if err := copyELF(counted, r); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint32(payload[len(payload)-4:]); counted.n != int64(want) {
		return fmt.Errorf("the kernel has %d bytes instead of %d", counted.n, want)
	}
	return nil
}

// counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// payloadOf finds the compressed kernel in a bzImage.
func payloadOf(image []byte) ([]byte, error) {
	if len(image) < headerSize || len(image) > maxImage || string(image[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		return nil, errNotBzImage
	}
	if binary.LittleEndian.Uint16(image[versionAt:]) < payloadVersion {
		return nil, fmt.Errorf("%w: its boot protocol is too old", errNotBzImage)
	}
	setup := int64(image[setupSectsAt])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*sector + int64(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	end := start + int64(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if end-start < 4 || end > int64(len(image)) {
		return nil, fmt.Errorf("%w: its payload is outside of it", errNotBzImage)
	}
	return image[start:end], nil
}

// decompressor reads a payload. The build of a kernel appends the size of the
// uncompressed kernel, 4 bytes, to all forms but gzip's, which ends with it.
func decompressor(payload []byte) (io.Reader, error) {
	body := payload[:max(len(payload)-4, 0)]
	switch {
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		r, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, err
		}
		r.Multistream(false)
		return r, nil
	case bytes.HasPrefix(payload, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return xz.ReaderConfig{SingleStream: true}.NewReader(bytes.NewReader(body))
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return lz4.NewReader(bytes.NewReader(body)), nil
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		r, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxVmlinux))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	case bytes.HasPrefix(payload, []byte("BZh")):
		return bzip2.NewReader(bytes.NewReader(body)), nil
	}
	return nil, fmt.Errorf("%w: its payload is compressed in a way that is not known", errNotBzImage)
}

// copyELF copies a kernel, and refuses what is none.
func copyELF(w io.Writer, r io.Reader) error {
	if closer, ok := r.(io.Closer); ok {
		defer closer.Close()
	}
	header := make([]byte, elfHeader)
	if _, err := io.ReadFull(r, header); err != nil {
		return fmt.Errorf("decompress the kernel: %w", err)
	}
	if !bytes.HasPrefix(header, elfMagic) || binary.LittleEndian.Uint16(header[elfMachineAt:]) != elfX8664 {
		return errors.New("the kernel is not an x86-64 ELF file")
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(r, maxVmlinux))
	if err != nil {
		return fmt.Errorf("decompress the kernel: %w", err)
	}
	if n == maxVmlinux {
		return fmt.Errorf("the kernel is larger than %d MiB", maxVmlinux>>20)
	}
	return nil
}
