package vmmproc

import (
	"bytes"
	"io"
	"os"
	"strings"
)

// maxTail bounds what is read of the log's end, in bytes.
const maxTail = 4 << 10

// Tail returns the last lines of a file, joined by "; ", or "".
func Tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > maxTail {
		if _, err := f.Seek(-maxTail, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTail))
	if err != nil {
		return ""
	}
	var kept []string
	for line := range bytes.Lines(data) {
		if text := strings.TrimSpace(string(line)); text != "" {
			kept = append(kept, text)
		}
	}
	return strings.Join(kept[max(0, len(kept)-lines):], "; ")
}
