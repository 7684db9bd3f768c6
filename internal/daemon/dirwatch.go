package daemon

import (
	"os"

	"golang.org/x/sys/unix"
)

// dirWatch tells of new and changed names in a directory.
type dirWatch struct {
	// changed has a token after one change or more.
	changed chan struct{}
	file    *os.File
	ended   chan struct{}
}

// watchDir begins to watch; the caller closes it. A socket is announced twice:
// when it is bound, and when its mode is set, at which time it is listened on.
func watchDir(path string) (*dirWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ATTRIB); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	w := &dirWatch{
		changed: make(chan struct{}, 1),
		file:    os.NewFile(uintptr(fd), "inotify"),
		ended:   make(chan struct{}),
	}
	go w.read()
	return w, nil
}

func (w *dirWatch) read() {
	defer close(w.ended)
	for buf := make([]byte, 4096); ; {
		if _, err := w.file.Read(buf); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *dirWatch) close() {
	w.file.Close()
	<-w.ended
}
