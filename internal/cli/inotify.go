package cli

import (
	"encoding/binary"
	"io"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/layout"
)

// readEvents passes inotify events on until the file is closed, the watched
// directory goes, or done is closed.
func readEvents(r io.Reader, changed chan<- bool, done <-chan struct{}) {
	exit := filepath.Base(layout.Instance("").Exit())
	buf := make([]byte, 16<<10)
	for {
		n, err := r.Read(buf)
		if err != nil {
			return
		}
		ended := false
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(rest[4:])
			size := int(binary.NativeEndian.Uint32(rest[12:]))
			name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size]), "\x00")
			if mask&(unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0 {
				return
			}
			ended = ended || name == exit && mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0
			rest = rest[unix.SizeofInotifyEvent+size:]
		}
		select {
		case changed <- ended:
		case <-done:
			return
		}
	}
}
