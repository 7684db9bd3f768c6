package confine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// Words by which this test binary plays other programs.
const (
	inspectCommand = "test-inspect"
	nestedCommand  = "test-nested"
)

func TestMain(m *testing.M) {
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == Command:
		err = Main(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == inspectCommand:
		err = inspect(os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == nestedCommand:
		err = nested(os.Args[2])
	case len(os.Args) > 1 && os.Args[1] == openCommand:
		err = openAll(os.Args[2:])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// report is what a confined program sees of its confinement.
type report struct {
	Inside, Outside string // results of writing files
	Read, ReadOther string // results of reading files
	Links           int    // network devices that are up
	Caps            string
	NoNewPrivs      bool
	Env             []string
	Core            uint64
	Passed          string
	OOM             string
}

// inspect writes a report to its working directory. args: a file that it may
// read, one that it may not, and a directory where it may not write.
func inspect(args []string) error {
	word := func(err error) string {
		switch {
		case err == nil:
			return "ok"
		case errors.Is(err, fs.ErrPermission):
			return "denied"
		}
		return err.Error()
	}
	read := func(path string) string {
		_, err := os.ReadFile(path)
		return word(err)
	}
	var r report
	r.Inside = word(os.WriteFile("written", nil, 0o600))
	r.Outside = word(os.WriteFile(filepath.Join(args[2], "written"), nil, 0o600))
	r.Read, r.ReadOther = read(args[0]), read(args[1])
	if links, err := net.Interfaces(); err == nil {
		for _, l := range links {
			if l.Flags&net.FlagUp != 0 {
				r.Links++
			}
		}
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(status)) {
		if caps, ok := strings.CutPrefix(line, "CapEff:"); ok {
			r.Caps = strings.TrimSpace(caps)
		}
		r.NoNewPrivs = r.NoNewPrivs || strings.HasPrefix(line, "NoNewPrivs:\t1")
	}
	oom, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return err
	}
	r.OOM = strings.TrimSpace(string(oom))
	r.Env = os.Environ()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return err
	}
	r.Core = limit.Max
	passed, err := io.ReadAll(os.NewFile(FirstFile, "passed"))
	if err != nil {
		return err
	}
	r.Passed = string(passed)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// confined runs inspect under the policy, and returns what it saw.
func confined(dir string) (r report, layers []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return r, nil, err
	}
	if err := os.Mkdir(filepath.Join(dir, "vm"), 0o700); err != nil {
		return r, nil, err
	}
	readable, secret := filepath.Join(dir, "readable"), filepath.Join(dir, "secret")
	for _, path := range []string{readable, secret} {
		if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
			return r, nil, err
		}
	}
	passed, err := os.Open(secret)
	if err != nil {
		return r, nil, err
	}
	defer passed.Close()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		return r, nil, err
	}
	defer out.Close()
	started, err := Start(Program{
		Path: self, Args: []string{inspectCommand, readable, secret, dir},
		Dir: filepath.Join(dir, "vm"), Files: []*os.File{passed}, Output: out,
		Policy: Policy{
			WriteDirs: []string{filepath.Join(dir, "vm")}, ReadFiles: []string{self, readable, "/no/such/file"},
			ReadDirs: []string{"/proc", "/sys", "/usr", "/lib", "/lib64"}, OOMScoreAdj: 300,
		},
	})
	if err != nil {
		return r, nil, err
	}
	if err := finish(started); err != nil {
		return r, nil, err
	}
	data, err := os.ReadFile(out.Name())
	if err == nil {
		if err = json.Unmarshal(data, &r); err != nil {
			err = fmt.Errorf("%w: %s", err, data)
		}
	}
	return r, started.Layers, err
}

// finish lets the program go and waits for it.
func finish(started *Started) error {
	handle, err := vmmproc.NewHandle("test", started.PID)
	if err != nil {
		return errors.Join(err, started.Abandon())
	}
	proc, err := vmmproc.Open(handle)
	if err != nil {
		return errors.Join(err, started.Abandon())
	}
	if err := started.Open(); err != nil {
		return errors.Join(err, vmmproc.Destroy(proc))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(proc.Wait(ctx), proc.Release())
}

// check compares a report with the layers that are said to hold.
func (r report) check(layers []string) error {
	var wrong []string
	expect := func(what string, ok bool) {
		if !ok {
			wrong = append(wrong, what)
		}
	}
	expect("write inside", r.Inside == "ok")
	expect("read what is granted", r.Read == "ok")
	expect("passed descriptor", r.Passed == "text")
	expect("capabilities", strings.Trim(r.Caps, "0") == "")
	expect("no_new_privs", r.NoNewPrivs)
	expect("environment", len(r.Env) == 0)
	expect("core dumps", r.Core == 0)
	expect("oom score", r.OOM == "300")
	if slices.Contains(layers, Landlock) {
		expect("write outside", r.Outside == "denied")
		expect("read what is not granted", r.ReadOther == "denied")
	}
	if slices.Contains(layers, NetNS) {
		expect("network", r.Links == 0)
	}
	if len(wrong) > 0 {
		return fmt.Errorf("layers %v, wrong: %v, report %+v", layers, wrong, r)
	}
	return nil
}

func TestConfined(t *testing.T) {
	r, layers, err := confined(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(layers)
	if err := r.check(layers); err != nil {
		t.Error(err)
	}
}

// A host that forbids user namespaces gets what is left.
func TestNoUserNamespaces(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, nestedCommand, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Log("this host forbids user namespaces itself: TestConfined has seen it")
		return
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if strings.Contains(string(out), UserNS) || !strings.Contains(string(out), NetNS) {
		t.Errorf("layers: %s", out)
	}
}

// nested forbids user namespaces to itself, and tries to confine.
func nested(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	r, layers, err := confined(dir)
	if err != nil {
		return err
	}
	fmt.Println(layers)
	return r.check(layers)
}

func TestMissing(t *testing.T) {
	if got := Missing([]string{"kvm", NetNS, Seccomp}); !slices.Equal(got, []string{Landlock, UserNS}) {
		t.Error(got)
	}
	if got := Missing(All()); len(got) != 0 {
		t.Error(got)
	}
}

// A wrapper whose starter is gone ends, and a bad call is an error.
func TestMainRefuses(t *testing.T) {
	if err := Main([]string{"{}"}); err == nil {
		t.Error("no program, no error")
	}
	if err := Main([]string{"{", "true"}); err == nil {
		t.Error("no policy, no error")
	}
}
