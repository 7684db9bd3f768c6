package treetar

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leastHole is the smallest hole that a header is written for; of a file with
	// more than maxSegments parts larger ones are written as zeros, too, so that
	// its map stays well within what readers take (1 MiB in Go's).
	leastHole   = 64 << 10
	maxSegments = 10_000
	tarBlock    = 512
)

// segment is a part of a file that holds data.
type segment struct{ offset, length int64 }

// segments are the parts of a file between its holes; nil for a file without any
// that are worth a header.
func segments(f *os.File, info fs.FileInfo) ([]segment, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Blocks*tarBlock >= info.Size()-leastHole {
		return nil, nil
	}
	for least := int64(leastHole); ; least *= 8 {
		parts, err := dataParts(f, info.Size(), least)
		if err != nil || len(parts) <= maxSegments {
			return parts, err
		}
	}
}

// dataParts asks for the data of a file, holes of less than least counted in; at
// most two parts more than maxSegments.
func dataParts(f *os.File, size, least int64) ([]segment, error) {
	parts := []segment{}
	fd := int(f.Fd())
	for at := int64(0); at < size && len(parts) <= maxSegments; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole
		}
		if err != nil {
			return nil, err
		}
		end, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return nil, err
		}
		data, end = min(data, size), min(end, size)
		if last := len(parts) - 1; last >= 0 && data-(parts[last].offset+parts[last].length) < least {
			parts[last].length = end - parts[last].offset
		} else {
			parts = append(parts, segment{data, end - data})
		}
		at = end
	}
	// GNU tar takes the end of the last part for the end of the file.
	if last := len(parts) - 1; last < 0 || parts[last].offset+parts[last].length < size {
		parts = append(parts, segment{size, 0})
	}
	return parts, nil
}

// sparse writes a file with holes, in GNU tar's sparse format 1.0 (its manual,
// "Storing Sparse Files"): Go's package reads it and cannot write it.
func (p *Packer) sparse(h *tar.Header, f *os.File, parts []segment) error {
	if err := p.tar.Flush(); err != nil {
		return err
	}
	var listing strings.Builder
	fmt.Fprintf(&listing, "%d\n", len(parts))
	stored := int64(0)
	for _, part := range parts {
		fmt.Fprintf(&listing, "%d\n%d\n", part.offset, part.length)
		stored += part.length
	}
	index := pad(listing.String())
	records := record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") +
		record("GNU.sparse.name", h.Name) + record("GNU.sparse.realsize", strconv.FormatInt(h.Size, 10)) +
		record("mtime", seconds(h.ModTime)) + record("uid", strconv.Itoa(h.Uid)) + record("gid", strconv.Itoa(h.Gid)) + record("size", strconv.FormatInt(stored+int64(len(index)), 10))
	extended := rawHeader("PaxHeaders.0/sparse", 'x', &tar.Header{Mode: 0o600, Size: int64(len(records))})
	plain := *h
	plain.Size = 0 // the record says it
	main := rawHeader(path.Join("GNUSparseFile.0", "sparse"), '0', &plain)
	if _, err := io.WriteString(p.out, extended+pad(records)+main+index); err != nil {
		return err
	}
	p.sum.Entries++
	holes := h.Size - stored
	for _, part := range parts {
		if err := p.content(p.out, f, part, h.Name); err != nil {
			return err
		}
	}
	p.sum.Bytes += holes
	p.tell()
	_, err := io.WriteString(p.out, strings.Repeat("\x00", int(-stored&(tarBlock-1))))
	return err
}

// pad fills the last block with zeros.
func pad(text string) string {
	return text + strings.Repeat("\x00", -len(text)&(tarBlock-1))
}

// record is one line of a PAX header: its own length, key and value.
func record(key, value string) string {
	rest := len(" =\n") + len(key) + len(value)
	size := rest + len(strconv.Itoa(rest))
	if len(strconv.Itoa(size)) > len(strconv.Itoa(rest)) {
		size = rest + len(strconv.Itoa(size))
	}
	return fmt.Sprintf("%d %s=%s\n", size, key, value)
}

// seconds is a time as PAX has it.
func seconds(t time.Time) string {
	s, ns := t.Unix(), t.Nanosecond()
	if s < 0 && ns > 0 { // -1.5 is one and a half seconds before 1970
		return "-" + fmt.Sprintf("%d.%09d", -s-1, 1_000_000_000-ns)
	}
	return fmt.Sprintf("%d.%09d", s, ns)
}

// rawHeader is a ustar header (POSIX pax, "ustar Interchange Format") for what Go's
// package writes none.
func rawHeader(name string, kind byte, h *tar.Header) string {
	var b [tarBlock]byte
	copy(b[0:100], name)
	copy(b[100:], fmt.Sprintf("%07o", h.Mode&0o7777))
	copy(b[108:], fmt.Sprintf("%07o", h.Uid&0o7777777))
	copy(b[116:], fmt.Sprintf("%07o", h.Gid&0o7777777))
	copy(b[124:], fmt.Sprintf("%011o", h.Size))
	copy(b[136:], fmt.Sprintf("%011o", max(h.ModTime.Unix(), 0)&0o77777777777))
	b[156] = kind
	copy(b[257:], "ustar\x0000")
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return string(b[:])
}
