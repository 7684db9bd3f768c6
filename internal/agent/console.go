package agent

import (
	"io"
	"log/slog"
	"sync"
)

// consoleLines is how many lines wait for a console that is slow.
const consoleLines = 64

// console writes lines to the guest's console without ever waiting for it:
// whoever reads it on the host must not be able to stop the agent. Lines that
// do not fit are dropped.
type console struct {
	lines chan []byte
	done  sync.WaitGroup
}

func newConsole(w io.Writer) *console {
	c := &console{lines: make(chan []byte, consoleLines)}
	c.done.Go(func() {
		for line := range c.lines {
			_, _ = w.Write(line)
		}
	})
	return c
}

// Write implements io.Writer; p is one line or more.
func (c *console) Write(p []byte) (int, error) {
	select {
	case c.lines <- append([]byte(nil), p...):
	default:
	}
	return len(p), nil
}

// Close writes what waits. Nothing may be written after it.
func (c *console) Close() {
	close(c.lines)
	c.done.Wait()
}

// consoleAttr leaves out the time of a log line: the supervisor's log has it.
func consoleAttr(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String("from", "banger")
	}
	return a
}
