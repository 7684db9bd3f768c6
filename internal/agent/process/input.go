package process

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/api/stream"
)

// maxQueued bounds the input that waits for a process, in bytes: what a client
// may have unacknowledged, and one write that was under way when it came back.
const maxQueued = stream.Unacked + stream.MaxPayload

// errFlood is a client that sends more than it may.
var errFlood = errors.New("more unacknowledged input than the protocol allows")

// input feeds a process. It takes what comes without waiting, so that a client's
// signals are never held up by its input.
type input struct {
	file *os.File
	tty  bool

	mu      sync.Mutex
	changed sync.Cond
	queue   []byte // not yet taken by run
	spare   []byte // the buffer that run does not use
	writing []byte // what run is writing, from written on
	written uint64 // bytes that the process has, or will never read
	acked   uint64 // bytes that the client was told of
	eof     bool   // nothing comes after queue
	closed  bool   // the process reads no more: discard
	reader  *cursor
	last    byte // of the bytes written
}

func newInput(file *os.File, tty bool) *input {
	in := &input{file: file, tty: tty, last: '\n'}
	in.changed.L = &in.mu
	return in
}

// offer takes input from c, and the end of it. It does not wait, and copies
// data. What comes from a client that another has replaced is dropped.
func (in *input) offer(c *cursor, data []byte, eof bool) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if c != in.reader {
		return nil
	}
	if in.eof && len(data) > 0 {
		return nil // after the end: there is nobody to tell
	}
	if in.closed {
		in.count(len(data))
		return nil
	}
	if len(data) > 0 && in.idle() {
		data = data[in.writeNow(data):]
	}
	if len(in.queue)+len(in.writing)+len(data) > maxQueued {
		return errFlood
	}
	in.queue = append(in.queue, data...)
	in.eof = in.eof || eof
	in.changed.Broadcast()
	return nil
}

func (in *input) idle() bool { return len(in.queue) == 0 && len(in.writing) == 0 }

// writeNow writes what the pipe takes at once: the usual case, and it saves a
// copy and a switch of goroutines.
func (in *input) writeNow(data []byte) int {
	raw, err := in.file.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	err = raw.Write(func(fd uintptr) bool {
		n, _ = unix.Write(int(fd), data)
		return true
	})
	if err != nil || n <= 0 {
		return 0 // run meets the error, if it is one
	}
	in.last = data[n-1]
	in.count(n)
	return n
}

// count notes n bytes as done with, and has them acknowledged now and then.
func (in *input) count(n int) {
	in.written += uint64(n)
	if in.ackable() && in.reader != nil {
		in.reader.poke()
	}
}

// ackable is written by so much as to be worth a frame. After resume acked may
// be ahead of written.
func (in *input) ackable() bool { return in.written >= in.acked+stream.AckEvery }

// ackDue returns the count to acknowledge, if it is time to.
func (in *input) ackDue(c *cursor) (uint64, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.reader != c || !in.ackable() {
		return 0, false
	}
	in.acked = in.written
	return in.acked, true
}

// resume begins with a client, which may have come back, and returns the count
// from which it sends. Input that was queued but not begun is dropped, and so
// the client's count of what is unacknowledged stays true.
func (in *input) resume(c *cursor) uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) > 0 {
		in.queue = in.queue[:0]
		in.eof = false
	}
	if len(in.writing) > stream.MaxPayload {
		in.writing = in.writing[:stream.MaxPayload]
		in.eof = false
	}
	in.reader = c
	in.acked = in.written + uint64(len(in.writing))
	return in.acked
}

// write is offer for a client with flow control of its own: it waits until
// there is room.
func (in *input) write(data []byte) error {
	in.mu.Lock()
	for len(in.queue)+len(in.writing) > stream.AckEvery && !in.closed {
		in.changed.Wait()
	}
	in.mu.Unlock()
	return in.offer(nil, data, false)
}

// run writes the queue to the process until its end or stop.
func (in *input) run() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.closed {
		if len(in.writing) > 0 {
			in.writeSome()
			continue
		}
		if len(in.queue) > 0 {
			in.queue, in.writing, in.spare = in.spare[:0], in.queue, in.queue
			in.changed.Broadcast()
			continue
		}
		if in.eof {
			in.finish()
			return
		}
		in.changed.Wait()
	}
}

// writeSome writes the beginning of writing, without the lock meanwhile.
func (in *input) writeSome() {
	part := in.writing[:min(len(in.writing), stream.MaxPayload)]
	in.mu.Unlock()
	n, err := in.file.Write(part)
	in.mu.Lock()
	if in.closed {
		return // which has counted what was left
	}
	if n > 0 {
		in.last = part[n-1]
	}
	in.writing = in.writing[n:]
	in.count(n)
	in.changed.Broadcast()
	if err != nil {
		in.closeLocked()
	}
}

// finish tells the process that its input has ended: by closing its pipe, or on
// a terminal by the end-of-file character, twice if a line is unfinished.
func (in *input) finish() {
	if !in.tty {
		in.closeLocked()
		return
	}
	in.closed = true
	eof := terminalEOF(in.file)
	if in.last != '\n' && len(eof) > 0 {
		eof = append(eof, eof[0])
	}
	in.mu.Unlock()
	_, _ = in.file.Write(eof)
	in.mu.Lock()
}

// stop ends run: the process has ended, or its client has left.
func (in *input) stop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closeLocked()
}

func (in *input) closeLocked() {
	in.closed = true
	in.count(len(in.writing) + len(in.queue))
	in.queue, in.spare, in.writing = nil, nil, nil
	if in.tty {
		evictWriter(in.file)
	} else {
		_ = in.file.Close()
	}
	in.changed.Broadcast()
}
