package logfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return info.Size()
}

func TestBeginsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := Open(path, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	line := []byte(strings.Repeat("x", 1<<20))
	for range 6 {
		if n, err := l.Write(line); n != len(line) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	now, old := fileSize(path), fileSize(path+".old")
	if now != 2<<20 || old != 4<<20 {
		t.Errorf("sizes %d and %d", now, old)
	}
	again, err := Open(path, 4<<20)
	if err != nil || again.size != now {
		t.Errorf("opened again: %v, %v", again, err)
	}
	again.Close()
}
