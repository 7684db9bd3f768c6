package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver/vmmproc"
)

// openCommand makes this test binary a program that opens files as QEMU opens
// memory, and says what it got.
const openCommand = "test-open"

// openAll opens each path for reading and writing, maps it privately, and tries
// to write to it.
func openAll(paths []string) error {
	for _, path := range paths {
		fd, err := unix.Openat(unix.AT_FDCWD, path, unix.O_RDWR, 0)
		if err != nil {
			fmt.Println(err)
			continue
		}
		data, err := unix.Mmap(fd, 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		text := string(data)
		data[0] = 'X'
		_, written := unix.Write(fd, []byte("X"))
		_, shared := unix.Mmap(fd, 0, 4, unix.PROT_WRITE, unix.MAP_SHARED)
		fmt.Println(text, written, shared)
	}
	return nil
}

// substituted runs openAll in confinement and returns what it said. drop ends
// the answers before the program runs.
func substituted(t *testing.T, drop bool, own, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	given := filepath.Join(dir, "given")
	if err := os.WriteFile(given, []byte("text"), 0o400); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(given)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	started, err := Start(Program{
		Path: self, Args: []string{openCommand, own, given, name}, Dir: dir, Output: out,
		Policy:     Policy{ReadFiles: []string{self}, ReadDirs: []string{"/proc", "/sys", "/usr", "/lib", "/lib64"}, WriteFiles: []string{own}},
		Substitute: &Substitute{Path: name, File: file},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer started.Drop()
	if drop {
		started.substitution.close()
	}
	if err := finish(started); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(given); err != nil || string(data) != "text" {
		t.Errorf("the file is %q now: %v", data, err)
	}
	said, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}

// A program gets the file for the one name, cannot write it, and opens all
// else as if nobody asked.
func TestSubstitute(t *testing.T) {
	own := filepath.Join(t.TempDir(), "own")
	if err := os.WriteFile(own, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(substituted(t, false, own, "/no/such/memory, with a comma"), "\n")
	if len(lines) != 4 || lines[0] != "mine <nil> <nil>" || lines[2] != "text bad file descriptor permission denied" {
		t.Errorf("it said %q", lines)
	}
	// By its own name the file is as closed as the policy and its mode have it.
	if landlockWorks() && lines[1] != "permission denied" {
		t.Errorf("by its own name: %q", lines[1])
	}
}

// With nobody to answer, the program is told, and does not wait.
func TestSubstituteDropped(t *testing.T) {
	if said := substituted(t, true, "/no/own", "/no/such/memory"); strings.Contains(said, "text") {
		t.Errorf("it said %q", said)
	}
}

// A starter that gives up before the program runs leaves nothing behind.
func TestSubstituteAbandoned(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	started, err := Start(Program{Path: "/bin/true", Output: out, Substitute: &Substitute{Path: "/x", File: file}})
	if err != nil {
		t.Fatal(err)
	}
	started.Drop()
	started.Drop()
	handle, err := vmmproc.NewHandle("test", started.PID)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := vmmproc.Open(handle)
	if err != nil {
		t.Fatal(err)
	}
	if err := vmmproc.Destroy(proc); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}
