package treetar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// listed is how many entries of a directory are read at once.
	listed = 256
	// maxLinks bounds the memory for files with several names: of a tree that has
	// more of them, some become files of their own.
	maxLinks = 100_000
)

// Packer writes an archive.
type Packer struct {
	// Progress, if not nil, is called after each entry and now and then within
	// one.
	Progress func(Summary)

	ctx   context.Context
	tar   *tar.Writer
	out   io.Writer
	links map[inode]string
	sum   Summary
	buf   []byte
}

type inode struct{ device, number uint64 }

// Pack writes the file, link or tree at name to w, under Top(name). A symbolic link
// is copied as one, unless name ends with a slash. What cannot be read is an error;
// what disappears meanwhile is left out.
func (p *Packer) Pack(ctx context.Context, w io.Writer, name string) (Summary, error) {
	p.ctx, p.out, p.tar = ctx, w, tar.NewWriter(w)
	p.links, p.sum, p.buf = map[inode]string{}, Summary{}, make([]byte, chunk)
	err := p.top(name)
	if err == nil {
		err = p.tar.Close()
	}
	return p.sum, err
}

func (p *Packer) top(name string) error {
	top := Top(name)
	if name == "" {
		name = "."
	}
	if top == "." || strings.HasSuffix(name, "/") {
		info, err := os.Stat(name)
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return p.topDir(name, top)
		}
		name = filepath.Clean(name)
	}
	parent, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return err
	}
	dir, err := newLevel("", parent, nil)
	if err != nil {
		return err
	}
	defer dir.close()
	return p.entry(dir, filepath.Base(name), top, 0)
}

func (p *Packer) topDir(name, as string) error {
	dir, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	return p.directory(dir, as, 0)
}

// entry writes one entry of dir, and all that is below it, as as.
func (p *Packer) entry(dir level, name, as string, depth int) error {
	if err := p.ctx.Err(); err != nil {
		return context.Cause(p.ctx)
	}
	if depth > maxDepth {
		return fmt.Errorf("%s: %w", as, errDepth)
	}
	info, err := dir.root.Lstat(name)
	if err != nil {
		return p.vanished(as, depth, err)
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		sub, err := dir.root.OpenRoot(name)
		if err != nil {
			return p.vanished(as, depth, err)
		}
		return p.directory(sub, as, depth)
	case mode.IsRegular():
		return p.file(dir, name, as, info)
	case mode&fs.ModeSymlink != 0:
		target, err := dir.root.Readlink(name)
		if err != nil {
			return p.vanished(as, depth, err)
		}
		h := header(as, info)
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
		return p.header(h)
	}
	p.sum.skip(as + " is " + kind(info.Mode()))
	return nil
}

// vanished forgives what somebody else has removed, but not what was asked for.
func (p *Packer) vanished(as string, depth int, err error) error {
	if depth == 0 || !errors.Is(err, fs.ErrNotExist) {
		return named(as, err)
	}
	p.sum.skip(as + " disappeared")
	return nil
}

// named says which entry an error is about, without the path that only half says it.
func named(as string, err error) error {
	if err == nil {
		return nil
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		err = linkErr.Err
	}
	return fmt.Errorf("%s: %w", as, err)
}

// directory writes a directory and what is in it, and closes it.
func (p *Packer) directory(root *os.Root, as string, depth int) error {
	dir, err := newLevel("", root, nil)
	if err != nil {
		return named(as, err)
	}
	defer dir.close()
	info, err := dir.file.Stat()
	if err != nil {
		return named(as, err)
	}
	h := header(as+"/", info)
	h.Typeflag = tar.TypeDir
	if err := p.header(h); err != nil {
		return err
	}
	for {
		names, err := dir.file.Readdirnames(listed)
		for _, name := range names {
			if err := p.entry(dir, name, path.Join(as, name), depth+1); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return named(as, err)
		}
	}
}

// file writes a regular file, or a link to the same file where it was written before.
func (p *Packer) file(dir level, name, as string, info fs.FileInfo) error {
	if first := p.linked(as, info); first != "" {
		h := header(as, info)
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return p.header(h)
	}
	// It may have become something that an open would wait for.
	f, err := openIn(dir, name)
	if err != nil {
		return p.vanished(as, 1, err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		p.sum.skip(as + " became something else")
		return err
	}
	h := header(as, info)
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	parts, err := segments(f, info)
	if err != nil {
		return named(as, err)
	}
	if parts != nil {
		return p.sparse(h, f, parts)
	}
	if err := p.header(h); err != nil {
		return err
	}
	return p.content(p.tar, f, segment{0, h.Size}, as)
}

// openIn opens a file to read; name is one word. A Root would look for a poller for
// it, which costs two calls more.
func openIn(dir level, name string) (*os.File, error) {
	fd, err := unix.Openat(dir.fd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// linked returns the name under which a file with several names was written, and
// else remembers it.
func (p *Packer) linked(as string, info fs.FileInfo) (first string) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return ""
	}
	key := inode{st.Dev, st.Ino}
	if first, ok := p.links[key]; ok {
		return first
	}
	if len(p.links) < maxLinks {
		p.links[key] = as
	}
	return ""
}

// content writes a part of a file. One that has become shorter meanwhile ends in
// zeros, as its header has told its size already.
func (p *Packer) content(w io.Writer, f io.ReaderAt, part segment, as string) error {
	for at, left := part.offset, part.length; left > 0; {
		if err := p.ctx.Err(); err != nil {
			return context.Cause(p.ctx)
		}
		n, err := f.ReadAt(p.buf[:min(left, chunk)], at)
		if n == 0 && err != nil && !errors.Is(err, io.EOF) {
			return named(as, err)
		}
		if n == 0 {
			n = int(min(left, chunk))
			clear(p.buf[:n])
		}
		if _, err := w.Write(p.buf[:n]); err != nil {
			return err
		}
		at, left = at+int64(n), left-int64(n)
		p.sum.Bytes += int64(n)
		p.tell()
	}
	return nil
}

func (p *Packer) header(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	p.sum.Entries++
	p.tell()
	return nil
}

func (p *Packer) tell() {
	if p.Progress != nil {
		p.Progress(p.sum)
	}
}

// header is what entries of all kinds have. Owners are numbers: looking names up
// would cost more than the rest.
func header(as string, info fs.FileInfo) *tar.Header {
	h := &tar.Header{Name: as, Mode: int64(unixMode(info.Mode())), ModTime: info.ModTime(), Format: tar.FormatPAX}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		h.Uid, h.Gid = int(st.Uid), int(st.Gid)
	}
	return h
}

// unixMode is the mode as chmod takes it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, value := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// kind is a noun for what is not copied.
func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a pipe"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "no file, directory or link"
}
