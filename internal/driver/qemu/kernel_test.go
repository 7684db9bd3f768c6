package qemu_test

import (
	"os"
	"testing"
)

// kernel returns a vmlinux and the directory of its modules.
func kernel(t testing.TB) (vmlinux, modules string) {
	t.Helper()
	return os.Getenv("BANGER_TEST_KERNEL"), os.Getenv("BANGER_TEST_MODULES")
}
