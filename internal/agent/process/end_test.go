package process

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLeftBehind is a command that ends while a child holds its streams.
func TestLeftBehind(t *testing.T) {
	m := testManager(t, Options{Quiet: 50 * time.Millisecond})
	c, exit := sh(t, m, `sleep 1000 & echo $!; exit 4`)
	pid, err := strconv.Atoi(strings.TrimSpace(c.stdout.String()))
	if err != nil || exit.Code != 4 {
		t.Fatalf("%v %v", exit, err)
	}
	if !alive(pid) {
		t.Error("what the command left running was ended")
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestLeftBehindWriterLives(t *testing.T) {
	m := testManager(t, Options{Quiet: 10 * time.Millisecond})
	path := t.TempDir() + "/alive"
	c, _ := sh(t, m, `(while [ ! -e `+path+` ]; do echo noise; sleep 0.02; done; echo yes >`+path+`.seen) & echo $!`)
	if c.received == 0 {
		t.Error("no output")
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child goes on writing", func() bool {
		_, err := os.Stat(path + ".seen")
		return err == nil
	})
}

func TestLargeEndOfStream(t *testing.T) {
	m := testManager(t, Options{Quiet: 50 * time.Millisecond})
	for range 20 {
		c, _ := sh(t, m, "head -c 1000000 /dev/zero; head -c 300000 /dev/zero >&2; sleep 1000 & echo $! >&2")
		if c.stdout.Len() != 1000000 || c.stderr.Len() <= 300000 {
			t.Fatalf("%d and %d bytes", c.stdout.Len(), c.stderr.Len())
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(strings.TrimLeft(c.stderr.String(), "\x00")))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}
