package probe

import (
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/atomicfile"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

// key is all that an outcome depends on. A change of any of it makes a new
// probe.
type key struct {
	Build  string   `json:"build"`
	BootID string   `json:"boot_id"`
	QEMU   fileMark `json:"qemu"`
	KVM    fileMark `json:"kvm"`
	Kernel fileMark `json:"kernel"`
	UID    int      `json:"uid"`
	Groups string   `json:"groups"`
}

// fileMark tells a file from its successor; the zero value is no file.
type fileMark struct {
	Path  string `json:"path,omitempty"`
	Mode  uint32 `json:"mode,omitempty"`
	UID   uint32 `json:"uid,omitempty"`
	GID   uint32 `json:"gid,omitempty"`
	Rdev  uint64 `json:"rdev,omitempty"`
	Size  int64  `json:"size,omitempty"`
	MTime int64  `json:"mtime,omitempty"` // nanoseconds
}

// mark describes path. A device's times change by use, so they do not count.
func mark(path string) fileMark {
	var st unix.Stat_t
	if path == "" || unix.Stat(path, &st) != nil {
		return fileMark{}
	}
	m := fileMark{Path: path, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Rdev: st.Rdev}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		m.Size, m.MTime = st.Size, st.Mtim.Nano()
	}
	return m
}

func makeKey(o Options, bin string) key {
	groups, err := os.Getgroups()
	if err != nil {
		groups = nil
	}
	data, err := json.Marshal(groups)
	if err != nil {
		data = nil
	}
	return key{
		Build: banger.BuildStamp().String(), BootID: process.BootID(), UID: os.Geteuid(), Groups: string(data),
		QEMU: mark(bin), KVM: mark(kvmDevice), Kernel: mark(o.Kernel),
	}
}

// record is the file of Home.Probe.
type record struct {
	Key    key    `json:"key"`
	Result Result `json:"result"`
}

// load returns what was found for k, if it was.
func load(home layout.Home, k key) (Result, bool) {
	data, err := os.ReadFile(home.Probe())
	if err != nil {
		return Result{}, false
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil || r.Key != k {
		return Result{}, false
	}
	return r.Result, true
}

func save(home layout.Home, k key, result Result) error {
	data, err := json.Marshal(record{k, result})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(home.State, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(home.Probe(), data, 0o600)
}
