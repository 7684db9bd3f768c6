package process

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// cgroups makes a cgroup for each process below one root, and removes it when
// nothing runs in it any more. One is made ahead, while no command waits for it.
type cgroups struct {
	root string
	log  *slog.Logger

	mu    sync.Mutex
	next  int
	ahead *cgroup
	left  []string // still populated: by what a command left running
}

// cgroup is the cgroup of one process. A nil one does nothing.
type cgroup struct {
	path string
	fd   int // -1 when closed
}

// take returns a new cgroup, or nil when there can be none: commands run without
// then.
func (c *cgroups) take() *cgroup {
	c.mu.Lock()
	g := c.ahead
	c.ahead = nil
	c.mu.Unlock()
	if g != nil {
		return g
	}
	return c.make()
}

// prepare makes the cgroup of the next process, unless there is one.
func (c *cgroups) prepare() {
	c.mu.Lock()
	there := c.ahead != nil
	c.mu.Unlock()
	if there {
		return
	}
	g := c.make()
	c.mu.Lock()
	there = c.ahead != nil
	if !there {
		c.ahead = g
	}
	c.mu.Unlock()
	if there {
		c.release(g)
	}
}

// close removes what is left, but for what is still populated.
func (c *cgroups) close() {
	c.mu.Lock()
	g := c.ahead
	c.ahead = nil
	c.mu.Unlock()
	c.release(g)
}

func (c *cgroups) make() *cgroup {
	if c.root == "" {
		return nil
	}
	c.mu.Lock()
	c.next++
	path := filepath.Join(c.root, fmt.Sprintf("cmd%d", c.next))
	c.mu.Unlock()
	if err := os.Mkdir(path, 0o755); err != nil {
		c.log.Warn("command runs without a cgroup", "err", err)
		return nil
	}
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		c.log.Warn("command runs without a cgroup", "err", err)
		_ = os.Remove(path)
		return nil
	}
	return &cgroup{path: path, fd: fd}
}

// release removes g, and those of before that have become empty since.
func (c *cgroups) release(g *cgroup) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g != nil {
		g.close()
		c.left = append(c.left, g.path)
	}
	c.left = slices.DeleteFunc(c.left, func(path string) bool {
		err := os.Remove(path)
		return err == nil || os.IsNotExist(err)
	})
}

func (g *cgroup) close() {
	if g != nil && g.fd >= 0 {
		_ = unix.Close(g.fd)
		g.fd = -1
	}
}

// kill ends everything in g, where the kernel has cgroup.kill (5.14).
func (g *cgroup) kill() {
	if g != nil {
		_ = os.WriteFile(filepath.Join(g.path, "cgroup.kill"), []byte("1"), 0)
	}
}
