package ext4

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"path"
	"strings"

	banger "github.com/banger-dev/banger"
)

const (
	// blockSize is the unit of a tar archive, in bytes.
	blockSize = 512
	// Linux's own bounds: PATH_MAX and NAME_MAX.
	maxPath = 4095
	maxName = 255
	// maxTrailer is how much padding may follow the end of an archive. Tools
	// pad to their record size, 10 KiB by habit.
	maxTrailer = 1 << 20
)

// kind is what a path is, as far as later entries care.
type kind byte

const (
	kindDir kind = iota + 1
	kindImplied
	kindOther
)

// filter copies a tar stream, checking every entry on the way. What it writes
// has clean relative names and only what the converter understands.
type filter struct {
	ctx     context.Context
	source  *blockReader
	in      *tar.Reader
	out     *tar.Writer
	limits  Limits
	seen    map[string]kind
	bytes   int64
	paths   int64
	copyBuf []byte
}

func newFilter(ctx context.Context, archive io.Reader, out io.Writer, limits Limits) *filter {
	source := &blockReader{r: bufio.NewReaderSize(archive, 256<<10)}
	return &filter{
		ctx:     ctx,
		source:  source,
		in:      tar.NewReader(source),
		out:     tar.NewWriter(out),
		limits:  limits,
		seen:    map[string]kind{"": kindImplied},
		copyBuf: make([]byte, 128<<10),
	}
}

// run copies all entries and the end of the stream.
func (f *filter) run() error {
	for {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		before := f.source.n
		hdr, err := f.in.Next()
		if err == io.EOF {
			return f.finish(f.source.n - before)
		}
		if err != nil {
			return readError(err)
		}
		if err := f.entry(hdr); err != nil {
			return err
		}
	}
}

// finish closes the copy. An archive ends with a block of zeros after the last
// entry: tail is how much came after that. One that just stops, although
// between two entries, was cut.
func (f *filter) finish(tail int64) error {
	if tail < blockSize || f.source.last != ([blockSize]byte{}) {
		return readError(io.ErrUnexpectedEOF)
	}
	n, err := io.CopyN(io.Discard, f.source, maxTrailer+1)
	if err != nil && err != io.EOF {
		return readError(err)
	}
	if n > maxTrailer {
		return banger.Errorf(banger.CodeFailed, "archive: data follows its end")
	}
	return f.out.Close()
}

func readError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return banger.Errorf(banger.CodeFailed, "archive: truncated: %w", err)
	}
	return banger.Errorf(banger.CodeFailed, "archive: %w", err)
}

// entry checks one entry and copies it.
func (f *filter) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if isNode(hdr.Typeflag) && strings.HasPrefix(name, "dev/") {
		return nil // the guest's devtmpfs covers them
	}
	copied, err := f.header(name, hdr)
	if err != nil {
		return err
	}
	if err := f.place(name, copied); err != nil {
		return err
	}
	if err := f.out.WriteHeader(copied); err != nil {
		return entryError(name, "%w", err)
	}
	if copied.Typeflag != tar.TypeReg {
		return nil
	}
	return f.content(name)
}

func (f *filter) content(name string) error {
	// Hide ReadFrom and WriteTo, so that the one buffer is used.
	_, err := io.CopyBuffer(struct{ io.Writer }{f.out}, readerFunc(func(p []byte) (int, error) {
		if err := f.ctx.Err(); err != nil {
			return 0, err
		}
		return f.in.Read(p)
	}), f.copyBuf)
	switch {
	case err == nil, errors.Is(err, errConverter), f.ctx.Err() != nil:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return entryError(name, "truncated: %w", err)
	}
	return entryError(name, "%w", err)
}

// place notes where the entry stands in the tree and charges it.
func (f *filter) place(name string, hdr *tar.Header) error {
	if err := f.parents(name); err != nil {
		return err
	}
	before := f.seen[name]
	now := kindOther
	if hdr.Typeflag == tar.TypeDir {
		now = kindDir
	}
	if before == kindOther || before != 0 && now != kindDir {
		return entryError(name, "the archive holds it twice")
	}
	if hdr.Typeflag == tar.TypeLink && f.seen[hdr.Linkname] != kindOther {
		return entryError(name, "hard link to %q, which is not a file that came before it", hdr.Linkname)
	}
	f.seen[name] = now
	f.paths += int64(len(name) + len(hdr.Linkname))
	f.bytes += hdr.Size
	if f.bytes > f.limits.Bytes {
		return tooLarge(f.limits)
	}
	return f.counted()
}

// parents notes the directories that name implies, and refuses a name beneath
// something that is not one: a link there would lead the write elsewhere.
func (f *filter) parents(name string) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		switch f.seen[dir] {
		case kindOther:
			return entryError(name, "it lies beneath %q, which is not a directory", dir)
		case kindDir, kindImplied:
			return nil
		}
		f.seen[dir] = kindImplied
		f.paths += int64(len(dir))
		if err := f.counted(); err != nil {
			return err
		}
	}
	return nil
}

func (f *filter) counted() error {
	if len(f.seen) > f.limits.Entries+1 {
		return banger.Errorf(banger.CodeFailed, "archive: holds more than %d entries", f.limits.Entries)
	}
	if f.paths > f.limits.PathBytes {
		return banger.Errorf(banger.CodeFailed, "archive: its paths are longer than %s together", banger.FormatSize(f.limits.PathBytes))
	}
	return nil
}

// cleanName returns the name of an entry relative to the root, "" for the root
// itself.
func cleanName(name string) (string, error) {
	switch {
	case strings.HasPrefix(name, "/"):
		return "", entryError(name, "absolute paths are refused")
	case len(name) > maxPath:
		return "", entryError(name[:64]+"…", "path longer than %d bytes", maxPath)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", entryError(name, `paths with ".." are refused`)
		}
		if len(part) > maxName {
			return "", entryError(part[:64]+"…", "name longer than %d bytes", maxName)
		}
	}
	name = path.Clean(name)
	if name == "." {
		return "", nil
	}
	return name, nil
}

func isNode(typeflag byte) bool { return typeflag == tar.TypeChar || typeflag == tar.TypeBlock }

// entryError names the entry, quoted: its name is whatever the archive says.
func entryError(name, format string, args ...any) error {
	return banger.Errorf(banger.CodeFailed, "archive: entry %q: "+format, append([]any{name}, args...)...)
}

// blockReader counts what is read and remembers the last block of it. No block
// of a header is all zeros.
type blockReader struct {
	r    io.Reader
	n    int64
	last [blockSize]byte
}

func (b *blockReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	if tail := p[:n]; n >= blockSize {
		copy(b.last[:], tail[n-blockSize:])
	} else {
		copy(b.last[:], b.last[n:])
		copy(b.last[blockSize-n:], tail)
	}
	return n, err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
