package vm

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// boots is how many cold boots TestManyBoots makes: ten, or BANGER_SOAK_BOOTS.
func boots() int { return count("BANGER_SOAK_BOOTS", 10) }

// count reads a number from the environment (make soak sets it).
func count(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return fallback
}

// busyLoop keeps one core busy until the returned function is called.
func busyLoop(t *testing.T) (stop func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	must(t, cmd.Start())
	return func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
}
