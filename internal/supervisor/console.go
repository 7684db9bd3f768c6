package supervisor

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/banger-dev/banger/internal/layout"
)

// maxConsole bounds the console log, in bytes; the part before is kept once, as
// console.log.old. A guest that floods its console costs twice this.
const maxConsole = 4 << 20

// consoleLog keeps what the guest writes to its console.
type consoleLog struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
}

func openConsole(path string) (*consoleLog, error) {
	c := &consoleLog{path: path}
	return c, c.open()
}

func (c *consoleLog) open() error {
	file, err := os.OpenFile(c.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	c.file, c.size = file, info.Size()
	return nil
}

// mark writes the line that begins a boot; logs --boot shows what follows the
// last one.
func (c *consoleLog) mark(now time.Time) error {
	_, err := fmt.Fprintf(c, "%s%s\n", layout.BootMark, now.UTC().Format(time.RFC3339))
	return err
}

// Write appends p. What does not fit on the disk is lost, not an error: the
// guest's console must go on.
func (c *consoleLog) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size+int64(len(p)) > maxConsole {
		if err := c.rotate(); err != nil {
			return 0, err
		}
	}
	n, _ := c.file.Write(p)
	c.size += int64(n)
	return len(p), nil
}

func (c *consoleLog) rotate() error {
	if err := os.Rename(c.path, c.path+".old"); err != nil {
		return err
	}
	c.file.Close()
	return c.open()
}

// Close closes the file.
func (c *consoleLog) Close() error { return c.file.Close() }

// copyConsole follows the guest's console until ctx or the VMM ends. first is
// the connection made before the guest ran, so that its first line is kept.
func (s *supervisor) copyConsole(ctx context.Context, first io.ReadCloser) {
	retry := newBackoff(consoleRetry)
	for conn := first; ; {
		if conn != nil {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			io.Copy(s.console, conn)
			stop()
			conn.Close()
		}
		if !retry.wait(ctx) {
			return
		}
		var err error
		if conn, err = s.vm.Console(ctx); err != nil {
			conn = nil
		}
	}
}
