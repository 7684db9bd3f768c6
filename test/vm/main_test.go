package vm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// bin is the directory of the binaries under test; cache keeps the kernel, the
// image and the downloads between runs. Set once by TestMain, read by tests.
var bin, cache string

func TestMain(m *testing.M) { os.Exit(mainTest(m)) }

func mainTest(m *testing.M) int {
	dir, err := os.MkdirTemp("", "banger-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	if err := errorsOf(buildBinaries(dir), findCache()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func errorsOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// buildBinaries builds the host's side with the race detector and the seam for
// faults, and the agent as it is shipped.
func buildBinaries(dir string) error {
	host := exec.Command("go", "build", "-race", "-tags", "faultinject", "-o", dir+"/",
		"./cmd/banger", "./cmd/bangerd", "./cmd/banger-vm")
	agent := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/", "./cmd/banger-agent")
	agent.Env = append(os.Environ(), "CGO_ENABLED=0")
	for _, cmd := range []*exec.Cmd{host, agent} {
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %v\n%s", cmd.Args, err, out)
		}
	}
	return nil
}

func findCache() error {
	cache = os.Getenv("BANGER_TEST_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		cache = filepath.Join(base, "banger-test")
	}
	for _, sub := range shared {
		if err := os.MkdirAll(filepath.Join(cache, sub), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// shared are the parts of a home that all tests have in common: what takes
// minutes to make and never changes once it is made.
var shared = []string{"state/images", "state/kernels", "state/templates", "cache"}
