package client

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// watcher tells that something in a directory was made or changed its mode:
// which a listening socket does when it is ready.
type watcher struct {
	changed chan struct{}
	file    *os.File
	reader  sync.WaitGroup
}

func watch(dir string) (*watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	w := &watcher{changed: make(chan struct{}, 1), file: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ATTRIB|unix.IN_MOVED_TO); err != nil {
		w.file.Close()
		return nil, err
	}
	w.reader.Go(w.read)
	return w, nil
}

func (w *watcher) read() {
	var events [4 << 10]byte
	for {
		if _, err := w.file.Read(events[:]); err != nil {
			return
		}
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watcher) close() {
	w.file.Close()
	w.reader.Wait()
}
