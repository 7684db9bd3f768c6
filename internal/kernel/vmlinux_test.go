package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// elf is a file that has a kernel's header and size enough for every
// compressor to have several blocks.
func elf() []byte {
	b := make([]byte, 3<<20)
	for i := range b {
		b[i] = byte(i >> 8)
	}
	copy(b, elfMagic)
	binary.LittleEndian.PutUint16(b[elfMachineAt:], elfX8664)
	return b
}

// bzImage wraps a payload as the kernel's build does.
func bzImage(payload []byte) []byte {
	const setup = 2
	image := make([]byte, (setup+1)*sector)
	image[setupSectsAt] = setup
	copy(image[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint16(image[versionAt:], 0x020f)
	const before = 100
	binary.LittleEndian.PutUint32(image[payloadOffsetAt:], before)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], uint32(len(payload)))
	image = append(image, make([]byte, before)...)
	image = append(image, payload...)
	return append(image, "trailer"...)
}

func sized(b *bytes.Buffer, n int) []byte {
	return binary.LittleEndian.AppendUint32(b.Bytes(), uint32(n))
}

type compressor struct {
	name string
	pack func(t testing.TB, data []byte) []byte
}

func compressors() []compressor {
	through := func(t testing.TB, w io.WriteCloser, err error, data []byte) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return []compressor{
		{"gzip", func(t testing.TB, data []byte) []byte {
			var b bytes.Buffer
			through(t, gzip.NewWriter(&b), nil, data)
			return b.Bytes()
		}},
		{"xz", func(t testing.TB, data []byte) []byte {
			var b bytes.Buffer
			w, err := xz.NewWriter(&b)
			through(t, w, err, data)
			return sized(&b, len(data))
		}},
		{"zstd", func(t testing.TB, data []byte) []byte {
			var b bytes.Buffer
			w, err := zstd.NewWriter(&b)
			through(t, w, err, data)
			return sized(&b, len(data))
		}},
		{"lz4", func(t testing.TB, data []byte) []byte {
			var b bytes.Buffer
			w := lz4.NewWriter(&b)
			err := w.Apply(lz4.LegacyOption(true))
			through(t, w, err, data)
			return sized(&b, len(data))
		}},
	}
}

func TestVmlinux(t *testing.T) {
	want := elf()
	for _, c := range compressors() {
		var got bytes.Buffer
		if err := Vmlinux(&got, bzImage(c.pack(t, want))); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d bytes of %d, %v", c.name, got.Len(), len(want), err)
		}
	}
	var got bytes.Buffer
	if err := Vmlinux(&got, want); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("a plain ELF kernel: %v", err)
	}
}

func TestVmlinuxRefuses(t *testing.T) {
	notELF := compressors()[0].pack(t, []byte("#!/bin/sh, and then some more to fill a header of sixty-four bytes"))
	whole := bzImage(compressors()[0].pack(t, elf()))
	outside := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(outside[payloadLengthAt:], 1<<31)
	lz4Kernel := compressors()[3].pack(t, elf()[:4096])
	binary.LittleEndian.PutUint32(lz4Kernel[len(lz4Kernel)-4:], 8192)
	old := bytes.Clone(whole)
	binary.LittleEndian.PutUint16(old[versionAt:], 0x0207)
	for name, image := range map[string][]byte{
		"empty":            nil,
		"short":            whole[:200],
		"cut":              whole[:len(whole)/2],
		"not ELF":          bzImage(notELF),
		"size that lies":   bzImage(lz4Kernel),
		"payload outside":  outside,
		"old protocol":     old,
		"unknown payload":  bzImage([]byte("what is this")),
		"damaged payload":  bzImage(append([]byte{0x28, 0xb5, 0x2f, 0xfd}, bytes.Repeat([]byte{7}, 300)...)),
		"a payload of one": bzImage([]byte{0x1f}),
	} {
		if err := Vmlinux(io.Discard, image); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzVmlinux(f *testing.F) {
	small := elf()[:4096]
	for _, c := range compressors() {
		f.Add(bzImage(c.pack(f, small)))
	}
	f.Add(small)
	f.Fuzz(func(t *testing.T, image []byte) {
		w := &bounded{left: 64 << 20}
		Vmlinux(w, image)
	})
}

// bounded ends a decompression that grows past what a fuzzer should spend.
type bounded struct{ left int }

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), nil
}
