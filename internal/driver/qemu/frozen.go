package qemu

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/fault"
	"github.com/banger-dev/banger/internal/layout"
)

// frozenFormat is the version of the files of a frozen guest, and of how its
// machine is made up where the arguments do not show it.
const frozenFormat = 2

// Bounds of the devices' state and of the line before it, in bytes. A q35 with
// our devices has 0.3 MiB.
const (
	maxState  = 16 << 20
	maxHeader = 8 << 10
)

// header is the first line of the file of the devices' state, as JSON.
type header struct {
	Format int `json:"format"`
	shape
	// MemoryWritten is when the memory's file was written last.
	MemoryWritten int64 `json:"memory_written_unix_ns"`
	// QEMU is the program that froze it.
	QEMU program `json:"qemu"`
	// SHA256 is of the state, which follows the line.
	SHA256 string `json:"sha256"`
}

// shape is what a frozen guest knows of its machine and QEMU would not compare,
// or badly: with a disk of another size it would write past the end.
type shape struct {
	VCPU        int    `json:"vcpu"`
	MemoryBytes int64  `json:"memory_bytes"`
	Disks       []disk `json:"disks"`
}

// disk is a disk as the guest left it. Written, which copies keep, tells it from
// the disk of another guest that was frozen in the same way, and from one that a
// guest has run on since.
type disk struct {
	Serial   string `json:"serial"`
	Bytes    int64  `json:"bytes"`
	Written  int64  `json:"written_unix_ns"`
	ReadOnly bool   `json:"read_only"`
}

// program is a file that is replaced when it changes.
type program struct {
	Path    string `json:"path"` // links resolved
	Bytes   int64  `json:"bytes"`
	Written int64  `json:"written_unix_ns"`
}

func programAt(path string) (p program, err error) {
	if p.Path, err = filepath.EvalSymlinks(path); err != nil {
		return p, err
	}
	st, err := os.Stat(p.Path)
	if err != nil {
		return p, err
	}
	p.Bytes, p.Written = st.Size(), st.ModTime().UnixNano()
	return p, nil
}

func shapeOf(m driver.Machine) (shape, error) {
	s := shape{VCPU: m.VCPU, MemoryBytes: m.MemoryMiB << 20}
	for _, d := range m.Disks {
		st, err := os.Stat(d.Path)
		if err != nil {
			return s, err
		}
		s.Disks = append(s.Disks, disk{d.Serial, st.Size(), st.ModTime().UnixNano(), d.ReadOnly})
	}
	return s, nil
}

// differs names the first thing in which other is not s.
func (s shape) differs(other shape) string {
	switch {
	case s.MemoryBytes != other.MemoryBytes:
		return fmt.Sprintf("%d MiB of memory, not %d", s.MemoryBytes>>20, other.MemoryBytes>>20)
	case s.VCPU != other.VCPU:
		return fmt.Sprintf("%d vcpus, not %d", s.VCPU, other.VCPU)
	}
	return differsInDisks(s.Disks, other.Disks)
}

func differsInDisks(a, b []disk) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%d disks, not %d", len(a), len(b))
	}
	for i := range a {
		switch {
		case a[i] == b[i]:
		case a[i].Serial != b[i].Serial || a[i].ReadOnly != b[i].ReadOnly:
			return fmt.Sprintf("the disk %q (read-only: %t), not %q (%t)", a[i].Serial, a[i].ReadOnly, b[i].Serial, b[i].ReadOnly)
		case a[i].Bytes != b[i].Bytes:
			return fmt.Sprintf("the disk %q of %d bytes, not %d", a[i].Serial, a[i].Bytes, b[i].Bytes)
		default:
			return fmt.Sprintf("another disk %q: this one is no copy of it, or was written since", a[i].Serial)
		}
	}
	return ""
}

// frozen is a guest that was frozen.
type frozen struct {
	memory *os.File // open for reading
	state  []byte
}

func (f *frozen) close() { f.memory.Close() }

// makeMemory creates the file for a guest's memory: sparse, and this user's.
func makeMemory(path string, size int64) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// writeFrozen puts the files of the frozen guest of m into dir: the memory, by
// renaming it, and the state. They are on disk when it returns.
func writeFrozen(dir layout.Instance, m driver.Machine, by program, state []byte) error {
	memory := layout.Instance(m.Dir).Memory()
	st, err := seal(memory)
	if err != nil {
		return err
	}
	machine, err := shapeOf(m)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(state)
	line, err := json.Marshal(header{
		Format: frozenFormat, shape: machine, MemoryWritten: st.ModTime().UnixNano(), QEMU: by,
		SHA256: hex.EncodeToString(sum[:]),
	})
	if err != nil {
		return err
	}
	devices := layout.Temp(dir.DeviceState())
	if err := os.WriteFile(devices, append(append(line, '\n'), state...), 0o600); err != nil {
		return err
	}
	if _, err := seal(devices); err != nil {
		return err
	}
	if err := os.Rename(memory, dir.Memory()); err != nil {
		return err
	}
	if err := fault.Point("template.memory"); err != nil {
		return err
	}
	if err := os.Rename(devices, dir.DeviceState()); err != nil {
		return err
	}
	return syncPath(dir.Dir())
}

// seal has a file on disk, and never written again.
func seal(path string) (fs.FileInfo, error) {
	if err := syncPath(path); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o400); err != nil {
		return nil, err
	}
	return os.Stat(path)
}

// syncPath has what a file or directory holds on disk.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// openFrozen opens the frozen guest in dir, which must be as it was written, and
// of a machine like m.
func openFrozen(dir layout.Instance, m driver.Machine) (*frozen, error) {
	f, err := readFrozen(dir, m)
	if err != nil {
		var pathErr *fs.PathError
		if errors.As(err, &pathErr) {
			err = fmt.Errorf("%s: %w", filepath.Base(pathErr.Path), pathErr.Err)
		}
		return nil, banger.Errorf(banger.CodeFailed, "the frozen guest in %s cannot be used: %w", dir.Dir(), err).
			WithHint("banger image warm makes a new one")
	}
	return f, nil
}

func readFrozen(dir layout.Instance, m driver.Machine) (*frozen, error) {
	h, state, err := readState(dir.DeviceState())
	if err != nil {
		return nil, err
	}
	memory, err := openMemory(dir.Memory(), h)
	if err != nil {
		return nil, err
	}
	if err := h.fits(m); err != nil {
		memory.Close()
		return nil, err
	}
	return &frozen{memory: memory, state: state}, nil
}

// fits says what keeps m from going on with the guest.
func (h header) fits(m driver.Machine) error {
	bin, err := FindBinary(m.Bin)
	if err != nil {
		return err
	}
	now, err := programAt(bin)
	if err != nil {
		return err
	}
	if now != h.QEMU {
		return fmt.Errorf("it is of another QEMU than %s is now", now.Path)
	}
	want, err := shapeOf(m)
	if err != nil {
		return err
	}
	if what := h.differs(want); what != "" {
		return fmt.Errorf("it has %s", what)
	}
	return nil
}

// openMemory opens the memory's file, which must be as it was frozen. That is
// seen from its size and time: to read it all would take longer than to boot.
func openMemory(path string, h header) (*os.File, error) {
	memory, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := memory.Stat()
	if err == nil && (st.Size() != h.MemoryBytes || st.ModTime().UnixNano() != h.MemoryWritten) {
		err = errors.New("its memory was changed")
	}
	if err != nil {
		memory.Close()
		return nil, err
	}
	return memory, nil
}

// readState reads the devices' state and proves it whole.
func readState(path string) (h header, state []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return h, nil, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return h, nil, err
	}
	data := make([]byte, min(st.Size(), maxHeader+maxState+1)) // io.ReadAll takes twice as long
	if _, err := io.ReadFull(file, data); err != nil {
		return h, nil, err
	}
	line, state, ok := bytes.Cut(data, []byte("\n"))
	// For the first byte of nothing QEMU would wait for ever.
	if !ok || len(line) > maxHeader || len(state) == 0 || len(state) > maxState {
		return h, nil, errors.New("its devices' state is damaged")
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, nil, fmt.Errorf("its devices' state is damaged: %w", err)
	}
	if h.Format != frozenFormat {
		return h, nil, fmt.Errorf("it is of format %d, not %d", h.Format, frozenFormat)
	}
	if sum := sha256.Sum256(state); hex.EncodeToString(sum[:]) != h.SHA256 {
		return h, nil, errors.New("its devices' state is damaged")
	}
	return h, state, nil
}
