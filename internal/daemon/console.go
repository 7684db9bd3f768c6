package daemon

import (
	"io"
	"os"
	"strings"

	"github.com/banger-dev/banger/internal/layout"
)

const (
	// tailLines and tailWidth bound the console lines that an error shows.
	tailLines = 15
	tailWidth = 300
	tailBytes = 16 << 10
)

// consoleTail returns the last lines of this boot's console, or, if the guest
// said nothing, of the VMM's log. The text is the guest's: unescaped, but valid
// UTF-8 and bounded.
func consoleTail(dir layout.Instance) string {
	text := lastBytes(dir.Console())
	if i := strings.LastIndex(text, layout.BootMark); i >= 0 {
		_, text, _ = strings.Cut(text[i:], "\n")
	}
	if strings.TrimSpace(text) == "" {
		text = lastBytes(dir.VMMLog())
	}
	lines := strings.Split(strings.TrimRight(strings.ToValidUTF8(text, "�"), "\r\n"), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		if len(line) > tailWidth {
			line = strings.ToValidUTF8(line[:tailWidth], "") + "…"
		}
		lines[i] = line
	}
	return strings.Join(lines, "\n")
}

func lastBytes(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > tailBytes {
		if _, err := f.Seek(-tailBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return ""
	}
	return string(data)
}
