// Package listen finds the TCP sockets that listen in the guest, and the
// processes that hold them.
//
// The kernel has no event for listen(2) that an agent could wait for, so it is
// asked once a second, and only while somebody asks us: for the number of sockets,
// which costs next to nothing, and if that is another, and at times in any case,
// for its tables. They begin with the sockets that listen: the rest, which may be
// long, is not read. Processes are looked through only when there is a socket that
// was not there before.
package listen

import (
	"cmp"
	"context"
	"os"
	"slices"
	"time"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
)

const (
	// every is how often the number of sockets is read, and fully how many times
	// that passes until the tables are read all the same: one socket may have come
	// as another went.
	every = time.Second
	fully = 5
	// maxListeners bounds what is told: with the longest texts it is less than
	// the 64 KiB that a message to the host may have.
	maxListeners = 256
	// maxRead bounds what is read of a table, in sockets.
	maxRead = 4096
	// searches is how often the holder of a socket is looked for. It is held by
	// none while it is handed over, and for good if it is the kernel's own.
	searches = 3
)

// Watcher follows the sockets. It belongs to one goroutine.
type Watcher struct {
	proc string // where procfs is
	self int    // the agent's own sockets are nobody's business

	sockets []socket
	holders map[uint64]*holder
	// counts are the numbers of sockets when the tables were read, skipped how
	// often they were not since.
	counts  [2]string
	skipped int
}

// holder is who has a socket, and how often that was looked for.
type holder struct {
	process
	tries int
}

// NewWatcher returns a watcher of this guest.
func NewWatcher() *Watcher {
	return &Watcher{proc: "/proc", self: os.Getpid(), holders: map[uint64]*holder{}}
}

// Run calls send with all listening sockets, at once and at each change, until
// ctx ends or send fails; it returns that error, or the one of a table that
// cannot be read.
func (w *Watcher) Run(ctx context.Context, send func(*agentv1.ListenersResponse) error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		changed, err := w.scan()
		if err != nil {
			return err
		}
		if changed || first {
			if err := send(w.message()); err != nil {
				return err
			}
		}
		timer.Reset(every)
	}
}

// scan reads the tables, and reports whether something is other than before.
func (w *Watcher) scan() (changed bool, err error) {
	counts := [2]string{count(w.proc+"/net/sockstat", "TCP: inuse "), count(w.proc+"/net/sockstat6", "TCP6: inuse ")}
	if counts == w.counts && counts[0] != "" && w.skipped < fully-1 && !w.searching() {
		w.skipped++
		return false, nil
	}
	w.counts, w.skipped = counts, 0
	var now []socket
	for _, table := range []string{"net/tcp", "net/tcp6"} {
		if now, err = readTable(w.proc+"/"+table, now); err != nil {
			return false, err
		}
	}
	slices.SortFunc(now, func(a, b socket) int {
		return cmp.Or(cmp.Compare(a.port, b.port), a.addr.Compare(b.addr), cmp.Compare(a.inode, b.inode))
	})
	changed = !slices.Equal(now, w.sockets)
	w.sockets = now
	return w.findHolders() || changed, nil
}

// searching reports whether a holder is still looked for.
func (w *Watcher) searching() bool {
	for _, h := range w.holders {
		if h.pid == 0 && h.tries < searches {
			return true
		}
	}
	return false
}

// findHolders looks for the holders of new sockets, and forgets those of sockets
// that are gone. It reports whether it found one.
func (w *Watcher) findHolders() (found bool) {
	wanted, present := map[uint64]bool{}, map[uint64]bool{}
	for _, s := range w.sockets {
		present[s.inode] = true
		h := w.holders[s.inode]
		if h == nil {
			h = &holder{}
			w.holders[s.inode] = h
		}
		if h.pid == 0 && h.tries < searches {
			h.tries++
			wanted[s.inode] = true
		}
	}
	for inode := range w.holders {
		if !present[inode] {
			delete(w.holders, inode)
		}
	}
	if len(wanted) == 0 {
		return false
	}
	for inode, p := range findProcesses(w.proc, wanted) {
		w.holders[inode].process = p
		found = true
	}
	return found
}

// message is what is told of the present sockets.
func (w *Watcher) message() *agentv1.ListenersResponse {
	out := new(agentv1.ListenersResponse)
	for _, s := range w.sockets {
		h := w.holders[s.inode]
		if h.pid == w.self {
			continue
		}
		if len(out.Listeners) == maxListeners {
			out.More = true
			break
		}
		out.Listeners = append(out.Listeners, &agentv1.Listener{
			Address: s.addr.AsSlice(), Port: uint32(s.port), Pid: int32(h.pid), Process: h.name, Command: h.command,
		})
	}
	return out
}
