package leftover

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/lockfile"
)

func TestTemplates(t *testing.T) {
	home := layout.Home{State: t.TempDir()}
	whole := home.Template(strings.Repeat("ab", 32))
	dead := layout.Instance(layout.Temp(whole.Dir()))
	for _, dir := range []layout.Instance{whole, dead} {
		if err := os.MkdirAll(dir.Dir(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// One works for the dead maker, one is a VM that was started from a template.
	works := func(arg string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", "read x", arg)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); cmd.Wait() })
		return cmd
	}
	stray, vm := works(dead.Memory()), works(whole.Memory())
	anything := func(string) bool { return true }
	lock, err := lockfile.Try(home.TemplatesLock())
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	if found := Templates(home, anything); len(found) != 0 {
		t.Errorf("somebody makes one, and it is a leftover: %v", found)
	}
	lock.Release()
	found := Templates(home, anything)
	if len(found) != 1 || found[0].Path != dead.Dir() {
		t.Fatalf("%v", found)
	}
	if err := found[0].Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := stray.Wait(); err == nil {
		t.Error("what worked for the dead maker ended by itself")
	}
	if vm.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("a VM that was started from a template was ended")
	}
	if left, _ := filepath.Glob(filepath.Join(home.Templates(), "*")); len(left) != 2 || left[0] != whole.Dir() || left[1] != home.TemplatesLock() {
		t.Errorf("left: %v", left)
	}
}
