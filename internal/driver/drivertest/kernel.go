package drivertest

import (
	"os"
	"testing"
)

// Kernel returns a Debian vmlinux and the directory of its modules, as the
// environment of the tests names them.
func Kernel(t testing.TB) (vmlinux, modules string) {
	t.Helper()
	vmlinux, modules = os.Getenv("BANGER_TEST_KERNEL"), os.Getenv("BANGER_TEST_MODULES")
	if vmlinux == "" || modules == "" {
		t.Fatal("BANGER_TEST_KERNEL and BANGER_TEST_MODULES must name a vmlinux and its modules: run make test")
	}
	return vmlinux, modules
}
