package recipe

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/layout"
)

// scratch is the directory in which the tree is built. It lies outside the
// home directory, which the users of a build (apt's own, and the mapped ones)
// may not enter. Others may pass through it, not list it.
type scratch string

const scratchPrefix = "banger-image-"

// The scripts of a recipe.
const (
	essentialScript = "essential.sh"
	customizeScript = "customize.sh"
)

func (s scratch) file(name string) string { return filepath.Join(string(s), name) }

// staged holds the packages from the cache.
func (s scratch) staged() string { return s.file("staged") }

// fetched is where mmdebstrap's copy-out puts apt's archives.
func (s scratch) fetched() string { return s.file("archives") }

// overlay and links are archives of what the image gets beside packages.
func (s scratch) overlay() string { return s.file("overlay.tar") }
func (s scratch) links() string   { return s.file("links.tar") }

func (s scratch) script(name string) string { return s.file(name) }

// trees are the roots that mmdebstrap made here.
func (s scratch) trees() []string {
	found, _ := filepath.Glob(s.file("mmdebstrap.*"))
	return found
}

// record is what build.json holds.
type record struct {
	Scratch string `json:"scratch"`
}

// newScratch makes the directory, and the record of it in dir first.
func newScratch(dir layout.Image) (scratch, error) {
	base, err := scratchBase(os.Getenv("TMPDIR"))
	if err != nil {
		return "", err
	}
	// A name of our own, and not MkdirTemp's: it is on record before the
	// directory is made.
	s := scratch(filepath.Join(base, scratchPrefix+banger.NewID()))
	data, err := json.Marshal(record{string(s)})
	if err != nil {
		return "", err
	}
	if err := atomicfile.Write(dir.Build(), data, 0o600); err != nil {
		return "", err
	}
	for _, made := range []struct {
		dir  string
		mode os.FileMode
	}{{string(s), 0o711}, {s.staged(), 0o755}} {
		if err := os.Mkdir(made.dir, 0o700); err != nil {
			return "", err
		}
		if err := os.Chmod(made.dir, made.mode); err != nil { // whatever the umask
			return "", err
		}
	}
	return s, nil
}

// plainPath is what neither a shell nor apt's configuration minds.
var plainPath = regexp.MustCompile(`^/[A-Za-z0-9._/+-]*$`)

// scratchBase returns the first directory that others may enter and where
// programs may run: preferred, if there is one, then those on disk, then /tmp,
// which may be memory.
func scratchBase(preferred string) (string, error) {
	for _, dir := range []string{preferred, "/var/tmp", "/tmp"} {
		if plainPath.MatchString(dir) && enterable(dir) && unix.Access(dir, unix.W_OK|unix.X_OK) == nil {
			return filepath.Clean(dir), nil
		}
	}
	return "", banger.Errorf(banger.CodeUnavailable, "image build: no directory for temporary files: /var/tmp and /tmp are not writable, or programs may not run there").
		WithHint("TMPDIR=DIR with a directory that others may enter")
}

func enterable(dir string) bool {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil || st.Flags&unix.ST_NOEXEC != 0 {
		return false
	}
	for {
		info, err := os.Stat(dir)
		if err != nil || !info.IsDir() || info.Mode()&0o001 == 0 {
			return false
		}
		if dir == "/" {
			return true
		}
		dir = filepath.Dir(filepath.Clean(dir))
	}
}

// write puts the recipe's files where the hooks find them.
func (s scratch) write(files fs.FS) error {
	for _, name := range []string{essentialScript, customizeScript} {
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := s.create(s.script(name), text); err != nil {
			return err
		}
	}
	overlay, err := overlayTar(files)
	if err != nil {
		return err
	}
	if err := s.create(s.overlay(), overlay); err != nil {
		return err
	}
	links, err := linksTar(files)
	if err != nil {
		return err
	}
	return s.create(s.links(), links)
}

func (s scratch) create(path string, data []byte) error {
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // whatever the umask
}

// overlayTar is the tree below overlay/, owned by root. Directories come into
// being with the files.
func overlayTar(files fs.FS) ([]byte, error) {
	return archive(func(w *tar.Writer) error {
		return fs.WalkDir(files, "overlay", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := fs.ReadFile(files, path)
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(path, "overlay/")
			hdr := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text)), ModTime: time.Now()}
			if err := w.WriteHeader(hdr); err != nil {
				return err
			}
			_, err = w.Write(text)
			return err
		})
	})
}

// linksTar holds the masked units and generators, and the other links.
func linksTar(files fs.FS) ([]byte, error) {
	const null = "/dev/null"
	return archive(func(w *tar.Writer) error {
		link := func(name, target string) error {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Now()})
		}
		for list, dir := range map[string]string{"masks": "etc/systemd/system/", "generators": "etc/systemd/system-generators/"} {
			for _, name := range catalog.Lines(files, list) {
				if err := link(dir+name, null); err != nil {
					return err
				}
			}
		}
		for _, line := range catalog.Lines(files, "links") {
			name, target, ok := strings.Cut(line, " ")
			if !ok {
				return fmt.Errorf("recipe: link %q has no target", line)
			}
			if err := link(name, strings.TrimSpace(target)); err != nil {
				return err
			}
		}
		return nil
	})
}

func archive(fill func(*tar.Writer) error) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := fill(w); err != nil {
		return nil, err
	}
	err := w.Close()
	return buf.Bytes(), err
}
