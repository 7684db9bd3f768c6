package daemon

import (
	"os"
	"sync"
)

// maxLog bounds the daemon's log in bytes; the one before it is kept once, as
// bangerd.log.old.
const maxLog = 4 << 20

// logFile is a log that begins anew when it is full.
type logFile struct {
	mu   sync.Mutex
	path string
	file *os.File
	size int64
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write appends one record. What does not fit on the disk is lost: a full disk
// must not stop the daemon.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(p)) > maxLog {
		if err := os.Rename(l.path, l.path+".old"); err != nil {
			return 0, err
		}
		l.file.Close()
		if err := l.open(); err != nil {
			return 0, err
		}
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// Close closes the file.
func (l *logFile) Close() error { return l.file.Close() }
