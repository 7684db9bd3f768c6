package treetar

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxAfter bounds what may follow the end of an archive, in bytes: padding.
const maxAfter = 1 << 20

// Unpacker reads an archive.
type Unpacker struct {
	// Progress, if not nil, is called after each entry and now and then within
	// one.
	Progress func(Summary)
	// Owners gives files the owners that the archive says. Else they belong to who
	// unpacks, and set-id bits, which mean their owner, are dropped.
	Owners bool

	ctx   context.Context
	tar   *tar.Reader
	top   string // of the names; empty: any
	sum   Summary
	buf   []byte
	base  level   // where the top entry is made
	as    string  // its name there; empty: it is base itself
	seen  bool    // the top entry has been made
	stack []level // directories from the first below base to the present one
}

// level is a directory that is being filled.
type level struct {
	name string
	root *os.Root
	// file is the same directory, and fd its descriptor: for calls that a Root has
	// not got. An os.File looks at its flags each time it is asked for that.
	file *os.File
	fd   int
	// header is what it gets when it is full; nil for one that the archive has no
	// entry of.
	header *tar.Header
}

// Unpack makes what r holds at dest, as cp does: in dest if that is a directory, else
// as dest. Every name must be below top; with top "." what r holds is the contents of
// dest, and with top "" r is any archive and dest a directory. Whatever r holds,
// nothing is written outside of what is made so, or through a link that leads out.
func (u *Unpacker) Unpack(ctx context.Context, r io.Reader, dest, top string) (Summary, error) {
	u.ctx, u.top, u.tar = ctx, top, tar.NewReader(r)
	u.sum, u.buf, u.stack, u.seen = Summary{}, make([]byte, chunk), nil, false
	if err := u.open(dest); err != nil {
		return u.sum, err
	}
	defer u.base.close()
	err := u.entries()
	if left := u.leave(0, err == nil); err == nil {
		err = left
	}
	if err == nil {
		err = u.after(r)
	}
	return u.sum, err
}

// open finds where the top entry goes.
func (u *Unpacker) open(dest string) (err error) {
	if dest == "" {
		dest = "."
	}
	info, statErr := os.Stat(dest)
	exists := statErr == nil
	dir := exists && info.IsDir()
	switch {
	case !exists && !errors.Is(statErr, os.ErrNotExist):
		return statErr
	case exists && !dir && !info.Mode().IsRegular():
		return fmt.Errorf("%s is %s", dest, kind(info.Mode()))
	case exists && !dir && (u.top == "" || u.top == "."):
		return fmt.Errorf("%s is not a directory", dest)
	case !exists && (u.top == "" || strings.HasSuffix(dest, "/") && u.top != "."):
		return fmt.Errorf("%s: there is no such directory", dest)
	case exists && !dir:
		if dest, err = filepath.EvalSymlinks(dest); err != nil {
			return err
		}
	case !exists && u.top == ".":
		if err := os.Mkdir(dest, 0o777); err != nil {
			return err
		}
		dir = true
	}
	u.as = u.top
	if u.top == "." {
		u.as = ""
	}
	if !dir {
		dest, u.as = filepath.Dir(dest), filepath.Base(dest)
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	u.base, err = newLevel("", root, nil)
	return err
}

// newLevel takes root over.
func newLevel(name string, root *os.Root, h *tar.Header) (level, error) {
	f, err := root.Open(".")
	if err != nil {
		root.Close()
		return level{}, err
	}
	return level{name, root, f, int(f.Fd()), h}, nil
}

func (l level) close() {
	l.file.Close()
	l.root.Close()
}

func (u *Unpacker) entries() error {
	for {
		if u.ctx.Err() != nil {
			return context.Cause(u.ctx)
		}
		h, err := u.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := u.entry(h); err != nil {
			return named(h.Name, err)
		}
	}
	if u.as != "" && u.top != "" && !u.seen {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// after reads what may follow an archive, so that its writer is not cut off.
func (u *Unpacker) after(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, maxAfter+1))
	if err == nil && n > maxAfter {
		err = errors.New("the archive goes on after its end")
	}
	return err
}

// words divides a name of the archive, and refuses one that could lead out of it.
func words(name string) ([]string, error) {
	if strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return nil, errors.New("a name that is not below the archive's top")
	}
	var list []string
	for word := range strings.SplitSeq(name, "/") {
		switch word {
		case "", ".":
		case "..":
			return nil, errors.New("a name that leads out of the archive")
		default:
			list = append(list, word)
		}
	}
	if len(list) > maxDepth {
		return nil, errDepth
	}
	return list, nil
}

// place is where an entry goes, below base; nothing is left of base itself.
func (u *Unpacker) place(name string) ([]string, error) {
	list, err := words(name)
	if err != nil || u.top == "" || u.top == "." {
		return list, err
	}
	if len(list) == 0 || list[0] != u.top {
		return nil, fmt.Errorf("a name that is not below %q, which was asked for", u.top)
	}
	return append([]string{u.as}, list[1:]...), nil
}

func (u *Unpacker) entry(h *tar.Header) error {
	at, err := u.place(h.Name)
	if err != nil {
		return err
	}
	if len(at) == 0 { // base is there, and stays as it is
		if h.Typeflag != tar.TypeDir {
			return errors.New("no directory where one was asked for")
		}
		return nil
	}
	dir, err := u.enter(at[:len(at)-1])
	if err != nil {
		return err
	}
	u.seen = true
	note, err := u.make(dir, at, h)
	switch {
	case err != nil:
		return err
	case note != "":
		u.sum.skip(h.Name + " is " + note)
	default:
		u.sum.Entries++
		u.tell()
	}
	return nil
}

// make makes an entry in dir, or says what it is that is left out.
func (u *Unpacker) make(dir level, at []string, h *tar.Header) (note string, err error) {
	name := at[len(at)-1]
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.push(dir, name, h)
	case tar.TypeReg, '\x00', '7', tar.TypeGNUSparse: // NUL and contiguous files are old words for it
		err = u.file(dir, name, h)
	case tar.TypeSymlink:
		err = u.symlink(dir, name, h)
	case tar.TypeLink:
		err = u.link(at, h)
	case tar.TypeChar, tar.TypeBlock:
		note = "a device"
	case tar.TypeFifo:
		note = "a pipe"
	default:
		note = fmt.Sprintf("of an unknown type %q", h.Typeflag)
	}
	return note, err
}

// enter makes dirs the present directory, leaving those that are full.
func (u *Unpacker) enter(dirs []string) (level, error) {
	same := 0
	for same < len(dirs) && same < len(u.stack) && u.stack[same].name == dirs[same] {
		same++
	}
	if err := u.leave(same, true); err != nil {
		return level{}, err
	}
	for _, name := range dirs[same:] {
		// The top entry comes first; else what is not a directory would be taken
		// for one.
		if len(u.stack) == 0 && u.top != "" && u.top != "." && !u.seen {
			return level{}, errors.New("it comes before what it is in")
		}
		if err := u.push(u.present(), name, nil); err != nil {
			return level{}, err
		}
	}
	return u.present(), nil
}

func (u *Unpacker) present() level {
	if len(u.stack) == 0 {
		return u.base
	}
	return u.stack[len(u.stack)-1]
}

// push makes the directory name, if it is not there, and enters it. A link is never
// taken for one.
func (u *Unpacker) push(dir level, name string, h *tar.Header) error {
	mode := os.FileMode(0o777)
	if h != nil {
		mode = 0o700
	}
	if err := dir.root.Mkdir(name, mode); err != nil {
		if !errors.Is(err, os.ErrExist) {
			return err
		}
		info, err := dir.root.Lstat(name)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return errors.New("there is a file or a link where the directory is to be")
		}
	}
	root, err := dir.root.OpenRoot(name)
	if err != nil {
		return err
	}
	l, err := newLevel(name, root, h)
	if err != nil {
		return err
	}
	u.stack = append(u.stack, l)
	return nil
}

// leave lets go of all directories but the first n; full ones get their modes and
// times, which writing into them changes.
func (u *Unpacker) leave(n int, full bool) error {
	var first error
	for _, l := range slices.Backward(u.stack[n:]) {
		if full && l.header != nil && first == nil {
			first = named(l.header.Name, u.attributes(l.fd, l.header))
		}
		l.close()
	}
	u.stack = u.stack[:n]
	return first
}

// makeRoom removes what is in the place of something that is no directory.
func makeRoom(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return errors.New("there is a directory where it is to be")
	}
	return dir.Remove(name)
}

func (u *Unpacker) symlink(dir level, name string, h *tar.Header) error {
	if err := makeRoom(dir.root, name); err != nil {
		return err
	}
	if err := dir.root.Symlink(h.Linkname, name); err != nil {
		return err
	}
	return u.linkAttributes(dir, name, h)
}

// link makes another name of a file that came before.
func (u *Unpacker) link(at []string, h *tar.Header) error {
	target, err := u.place(h.Linkname)
	if err != nil {
		return err
	}
	if len(target) == 0 {
		return errors.New("a link to the top of the archive")
	}
	from, to := path.Join(target...), path.Join(at...)
	info, err := u.base.root.Lstat(from)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("a link to %s, which is no file", h.Linkname)
	}
	if from == to {
		return nil
	}
	if err := makeRoom(u.base.root, to); err != nil {
		return err
	}
	return u.base.root.Link(from, to)
}

func (u *Unpacker) tell() {
	if u.Progress != nil {
		u.Progress(u.sum)
	}
}
