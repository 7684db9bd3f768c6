package doctor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/internal/catalog"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/disk"
	"github.com/banger-dev/banger/internal/image"
	"github.com/banger-dev/banger/internal/template"
)

const (
	// lowSpace and littleSpace are what the state directory should have left.
	lowSpace    = banger.GiB
	littleSpace = 10 * banger.GiB
)

func size(n int64) string { return banger.FormatSize(n) }

// vmm says what runs VMs here and what contains them.
func (e *examiner) vmm(ctx context.Context) {
	found, err := e.Probe(ctx)
	if err != nil {
		text, fix := banger.Split(err)
		e.add(Fail, "qemu", or(fix, "banger daemon logs"), "what can run VMs cannot be found out: %s", text)
		return
	}
	e.found = found
	switch q := found.QEMU; {
	case q.Path == "":
		e.add(Fail, "qemu", or(q.Hint, "sudo apt-get install qemu-system-x86"), "%s", or(q.Problem, "QEMU is not installed"))
	case q.Problem != "":
		e.add(Fail, "qemu", q.Hint, "%s (%s): %s", q.Path, q.Version, q.Problem)
	default:
		e.ok("qemu", "%s %s", q.Path, q.Version)
	}
	switch k := found.KVM; {
	case k.Usable:
		e.ok("kvm", "usable: %s", k.Reason)
	case e.cfg.Accel == "kvm":
		e.add(Fail, "kvm", k.Hint, "the config asks for it, and it is not usable: %s", k.Reason)
	default:
		e.add(Warn, "kvm", k.Hint, "not usable, VMs run in emulation: %s", k.Reason)
	}
	e.confinement(found.Confinement, found.Unconfined)
}

func (e *examiner) confinement(have, missing []string) {
	by := "nothing but its own process"
	if len(have) > 0 {
		by = strings.Join(have, ", ")
	}
	boundary := "emulation"
	if e.found.Accel == "kvm" {
		boundary = "KVM"
	}
	switch {
	case len(missing) == 0:
		e.ok("confinement", "a VM is contained by %s, inside %s", boundary, by)
	case e.cfg.RequireConfinement:
		e.add(Fail, "confinement", "require_confinement = false in "+e.Home.ConfigFile(),
			"the config requires all of it, and this host does not give: %s", strings.Join(missing, ", "))
	default:
		e.add(Warn, "confinement", "", "a VM is contained by %s, inside %s; this host does not give: %s", boundary, by, strings.Join(missing, ", "))
	}
}

func or(text, fallback string) string {
	if text == "" {
		return fallback
	}
	return text
}

// program is one that banger runs.
type program struct {
	name, pkg, what string
	// must reports that nothing works without it.
	must bool
}

func (e *examiner) programs() {
	build := !e.imageLocal(config.Resolve(e.cfg, e.Host).Image.Value)
	for _, p := range []program{
		{"mmdebstrap", "mmdebstrap", "builds images", build},
		{"apt-get", "apt", "fetches kernels", build},
		{"mkfs.ext4", "e2fsprogs", "makes disks", true},
		{"git", "git", "imports work trees", false},
		{"ssh", "openssh-client", "reaches VMs by name", false},
	} {
		path, ok := find(p.name)
		switch {
		case ok:
			e.ok(p.name, "%s", path)
		case p.must:
			e.add(Fail, p.name, "sudo apt-get install "+p.pkg, "not installed; it %s", p.what)
		default:
			e.add(Warn, p.name, "sudo apt-get install "+p.pkg, "not installed; it %s", p.what)
		}
	}
	if os.Getuid() != 0 {
		e.subordinateIDs(build)
	}
}

// find looks in PATH and where Debian puts what only root has in it.
func find(name string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		return path, true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, true
		}
	}
	return "", false
}

// subordinateIDs are what an ordinary user builds images with.
func (e *examiner) subordinateIDs(needed bool) {
	bad := Warn
	if needed {
		bad = Fail
	}
	if _, ok := find("newuidmap"); !ok {
		e.add(bad, "uidmap", "sudo apt-get install uidmap", "newuidmap is not installed; an ordinary user builds images with it")
		return
	}
	me, err := user.Current()
	if err != nil {
		e.add(Warn, "uidmap", "", "who you are cannot be found out: %v", err)
		return
	}
	for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
		if !hasRange(file, me) {
			e.add(bad, "uidmap", fmt.Sprintf("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", me.Username),
				"%s has no range for %s; images are built with one", file, me.Username)
			return
		}
	}
	e.ok("uidmap", "%s has subordinate ids", me.Username)
}

func hasRange(file string, me *user.User) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, _, _ := strings.Cut(lines.Text(), ":"); name == me.Username || name == me.Uid {
			return true
		}
	}
	return false
}

// kernelFeatures are the host's means to contain a VMM. None is required.
func (e *examiner) kernelFeatures() {
	if err := tryUserNamespace(); err != nil {
		e.add(Warn, "user namespaces", "sudo sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000", "not usable: %v", err)
	} else {
		e.ok("user namespaces", "usable")
	}
	if abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 {
		e.add(Warn, "landlock", "", "this kernel does not offer it (%v)", errno)
	} else {
		e.ok("landlock", "version %d", abi)
	}
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil || !slices.Contains(strings.Fields(string(actions)), "kill_process") {
		e.add(Warn, "seccomp", "", "this kernel does not offer filters")
	} else {
		e.ok("seccomp", "filters are offered")
	}
	if dir, err := delegatedCgroup(); err != nil {
		e.add(Warn, "cgroup delegation", "", "VMs have no hard memory limit: %v", err)
	} else {
		e.ok("cgroup delegation", "%s", dir)
	}
}

// tryUserNamespace runs true in a new one.
func tryUserNamespace() error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd.Run()
}

// delegatedCgroup is our cgroup, if we may make others below it that limit
// memory.
func delegatedCgroup() (string, error) {
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		path, ok := strings.CutPrefix(line, "0::")
		if !ok {
			continue
		}
		dir := filepath.Join("/sys/fs/cgroup", path)
		controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		switch {
		case err != nil:
			return "", fmt.Errorf("cgroup version 2 is not mounted at /sys/fs/cgroup")
		case !slices.Contains(strings.Fields(string(controllers)), "memory"):
			return "", fmt.Errorf("the memory controller is not delegated to %s", path)
		case unix.Access(dir, unix.W_OK) != nil:
			return "", fmt.Errorf("%s may not be written", dir)
		}
		return dir, nil
	}
	return "", fmt.Errorf("this host has no cgroup version 2")
}

func (e *examiner) space() {
	dir := existing(e.Home.State)
	free, err := disk.Free(dir)
	switch {
	case err != nil:
		e.add(Warn, "disk space", "", "%v", err)
	case free < lowSpace:
		e.add(Fail, "disk space", "df -h "+dir, "%s left in %s", size(free), dir)
	case free < littleSpace:
		e.add(Warn, "disk space", "df -h "+dir, "only %s left in %s", size(free), dir)
	default:
		e.ok("disk space", "%s left in %s", size(free), dir)
	}
	if err := tryReflink(dir); err != nil {
		e.ok("reflink", "%s does not share blocks (%v): disks are copied sparsely, which works and takes longer", dir, err)
	} else {
		e.ok("reflink", "%s shares blocks between copies", dir)
	}
}

// existing is path, or the nearest directory above it that is there.
func existing(path string) string {
	for ; path != "/"; path = filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	return path
}

// tryReflink clones one block.
func tryReflink(dir string) error {
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(dir, ".banger-reflink-*")
		if err != nil {
			return err
		}
		defer os.Remove(f.Name())
		defer f.Close()
		files[i] = f
	}
	if _, err := files[0].Write(make([]byte, 4096)); err != nil {
		return err
	}
	return unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd()))
}

func (e *examiner) imageLocal(name string) bool {
	_, err := image.New(image.Options{Home: e.Home, Log: e.Log}).Get(name)
	return err == nil
}

func (e *examiner) image() {
	name := config.Resolve(e.cfg, e.Host).Image.Value
	if e.imageLocal(name) {
		e.ok("default image", "%s is local", name)
		return
	}
	for _, entry := range catalog.Images() {
		if entry.Name == name {
			e.ok("default image", "%s is in the catalog; it is built at first use", name)
			return
		}
	}
	e.add(Fail, "default image", "default_image_name = \""+config.BuiltinImage+"\" in "+e.Home.ConfigFile(),
		"%s is neither local nor in the catalog", name)
}

// spares says what waiting VMs may take of the memory.
func (e *examiner) spares() {
	most := config.SpareBytes(e.cfg, e.Host)
	switch {
	case most.Value == 0 && most.Origin == banger.OriginConfig:
		e.ok("spares", "turned off by [spares] memory")
	case most.Value == 0:
		e.ok("spares", "none are kept: the host has little memory (%s)", size(e.Host.MemoryBytes))
	default:
		e.ok("spares", "VMs that wait to be somebody's may take %s of the memory (%s)", size(most.Value), most.Origin)
	}
}

// templates says how many there are and what they take.
func (e *examiner) templates() {
	store := template.New(e.Home)
	limit, err := template.Limit(e.cfg.TemplateCacheBytes(), existing(e.Home.State))
	if err != nil {
		e.add(Warn, "templates", "", "%v", err)
		return
	}
	all, err := store.List()
	if err != nil {
		e.add(Warn, "templates", "", "they cannot be listed: %v", err)
		return
	}
	var total int64
	damaged := ""
	for _, t := range all {
		total += t.Size
		if t.Damaged != "" {
			damaged = banger.ShortID(t.Key) + ": " + t.Damaged
		}
	}
	switch {
	case damaged != "":
		e.add(Warn, "templates", "banger template prune", "one is damaged and used by no VM: %s", damaged)
	case limit == 0:
		e.ok("templates", "turned off by template_cache_size; %d are there and take %s", len(all), size(total))
	case total > limit:
		e.add(Warn, "templates", "banger template prune --all", "%d take %s, and may take %s", len(all), size(total), size(limit))
	default:
		e.ok("templates", "%d take %s, and may take %s", len(all), size(total), size(limit))
	}
}
