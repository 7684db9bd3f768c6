package supervisor

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/banger-dev/banger/internal/layout"
)

// maxConsole bounds the console log, in bytes.
const maxConsole = 4 << 20

// markBoot writes the line that begins a boot; logs --boot shows what follows
// the last one.
func markBoot(w io.Writer, now time.Time) error {
	_, err := fmt.Fprintf(w, "%s%s\n", layout.BootMark, now.UTC().Format(time.RFC3339))
	return err
}

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
