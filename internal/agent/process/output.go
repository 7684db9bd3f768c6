package process

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/banger-dev/banger/api/stream"
)

const (
	// chunk is the most that one read of a pipe takes, in bytes: with its frame
	// header, and that of the link (12), it fills one message of the link.
	chunk = 128<<10 - stream.HeaderSize - 12
	// firstRead is the first buffer of a pump: most commands say little, and a
	// large buffer costs page faults, which are dear under emulation.
	firstRead = 4 << 10
	// ownBlock is the read, in bytes, from which a buffer goes into the log
	// as it is; smaller ones are copied together.
	ownBlock = 60 << 10
	// shared is the size of a block of copied reads.
	shared = 64 << 10
)

// output is the ordered log of what a process wrote and its client has not
// acknowledged. It is kept as encoded frames, so that the hot path is one read
// of the pipe into a buffer and one write of that buffer to the link.
type output struct {
	mu   sync.Mutex
	room sync.Cond // room in the log, or discard
	// blocks hold the frames of the payload bytes [base, end), in order; the
	// first may begin before acked.
	blocks  []*block
	acked   uint64
	end     uint64
	open    int  // streams that have not ended
	discard bool // nobody will read: drop
	reader  *cursor
	free    [][]byte // buffers of chunk size to use again
}

// block is a run of whole frames.
type block struct {
	start uint64 // count of payload bytes before it
	size  int    // payload bytes in it
	buf   []byte // frames
	last  int    // offset of the last frame
	taken int    // what lies before this offset has been handed out
	users int    // readers that hold part of buf
}

// cursor is a reader's place in the log.
type cursor struct {
	next   uint64 // count of payload bytes handed out
	at     *block // block that holds next, and the offset of its frame; or nil
	offset int
	wake   chan struct{} // has one slot; filled when there is something to do
}

func newCursor() *cursor { return &cursor{wake: make(chan struct{}, 1)} }

func newOutput(streams int) *output {
	o := &output{open: streams}
	o.room.L = &o.mu
	return o
}

// notify wakes the reader. The caller holds mu.
func (o *output) notify() {
	if o.reader != nil {
		o.reader.poke()
	}
}

func (c *cursor) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// waitRoom waits until the log may take more, which is the back-pressure on the
// process, and returns how many bytes.
func (o *output) waitRoom() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.end-o.acked >= stream.Unacked && !o.discard {
		o.room.Wait()
	}
	return stream.Unacked - int(o.end-o.acked)
}

// buffer returns a buffer for a whole chunk, header included.
func (o *output) buffer() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n := len(o.free); n > 0 {
		b := o.free[n-1]
		o.free = o.free[:n-1]
		return b
	}
	return make([]byte, stream.HeaderSize+chunk)
}

// append adds n bytes at buf[stream.HeaderSize:]. It returns whether the log
// has kept the buffer.
func (o *output) append(kind stream.Kind, buf []byte, n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.discard {
		return false
	}
	kept := n >= ownBlock
	if kept {
		buf = buf[:stream.HeaderSize+n]
		putHeader(buf, kind, n)
		o.blocks = append(o.blocks, &block{start: o.end, size: n, buf: buf})
	} else {
		o.copyIn(kind, buf[stream.HeaderSize:stream.HeaderSize+n])
	}
	o.end += uint64(n)
	o.notify()
	return kept
}

// copyIn adds a small read to the last block, to its last frame if no reader
// has had that yet.
func (o *output) copyIn(kind stream.Kind, data []byte) {
	var tail *block
	if n := len(o.blocks); n > 0 {
		tail = o.blocks[n-1]
	}
	if tail == nil || cap(tail.buf)-len(tail.buf) < stream.HeaderSize+len(data) {
		size := max(firstRead, stream.HeaderSize+len(data))
		if tail != nil {
			size = shared
		}
		tail = &block{start: o.end, buf: make([]byte, 0, size)}
		o.blocks = append(o.blocks, tail)
	}
	frame := tail.buf[tail.last:]
	if tail.size > 0 && tail.taken <= tail.last && stream.Kind(frame[0]) == kind {
		putHeader(frame, kind, len(frame)-stream.HeaderSize+len(data))
		tail.buf = append(tail.buf, data...)
	} else {
		tail.last = len(tail.buf)
		tail.buf = stream.Append(tail.buf, kind, data)
	}
	tail.size += len(data)
}

func putHeader(b []byte, kind stream.Kind, n int) {
	b[0] = byte(kind)
	binary.LittleEndian.PutUint32(b[1:], uint32(n))
}

// endStream says that a stream has ended.
func (o *output) endStream() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open--
	o.notify()
}

// drop frees everything and lets writers run on: no client will come.
func (o *output) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.discard = true
	o.notify()
	o.blocks, o.free, o.reader = nil, nil, nil
	o.acked = o.end
	o.room.Broadcast()
}

// ack frees the bytes before count. It reports whether such a count can be.
func (o *output) ack(count uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ackLocked(count)
}

// ackLocked is ack; the caller holds mu.
func (o *output) ackLocked(count uint64) bool {
	if count > o.end {
		return false
	}
	if count <= o.acked {
		return true
	}
	o.acked = count
	done := 0
	for done < len(o.blocks) && o.blocks[done].start+uint64(o.blocks[done].size) <= count {
		b := o.blocks[done]
		if cap(b.buf) == stream.HeaderSize+chunk && b.users == 0 && len(o.free) < 4 {
			o.free = append(o.free, b.buf[:cap(b.buf)])
		}
		done++
	}
	o.blocks = slices.Delete(o.blocks, 0, done)
	o.room.Broadcast()
	return true
}

// seek makes c the reader, from count on; what lies before is acknowledged. It
// reports whether the log still has that place.
func (o *output) seek(c *cursor, count uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if count < o.acked || count > o.end {
		return false
	}
	o.ackLocked(count)
	c.next, c.at = count, nil
	o.reader = c
	c.poke()
	return true
}

// poke wakes the reader.
func (o *output) poke() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.notify()
}

// take returns the next frames for c, or none. ended is true when there are
// none and never will be. The frames are valid until done.
func (o *output) take(c *cursor) (frames []byte, ended bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.discard {
		return nil, true
	}
	if o.reader != c {
		return nil, false
	}
	if c.next == o.end {
		return nil, o.open == 0
	}
	if c.at == nil || c.offset == len(c.at.buf) {
		if frame := o.find(c); frame != nil {
			return frame, false
		}
	}
	b := c.at
	frames = b.buf[c.offset:]
	c.offset = len(b.buf)
	b.taken = len(b.buf)
	b.users++
	c.next = b.start + uint64(b.size)
	return frames, false
}

// done gives back what take returned last.
func (o *output) done(c *cursor) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.at != nil && c.at.users > 0 {
		c.at.users--
	}
}

// find sets c to the block and the frame of c.next. If that lies inside a frame
// it returns a frame of the rest, made new, and sets c behind it.
func (o *output) find(c *cursor) []byte {
	i, _ := slices.BinarySearchFunc(o.blocks, c.next, func(b *block, next uint64) int {
		if b.start+uint64(b.size) <= next {
			return -1
		}
		return 1
	})
	b := o.blocks[i]
	c.at, c.offset = b, 0
	for position := b.start; position < c.next; {
		size := int(binary.LittleEndian.Uint32(b.buf[c.offset+1:]))
		whole := b.buf[c.offset : c.offset+stream.HeaderSize+size]
		c.offset += len(whole)
		position += uint64(size)
		if position > c.next {
			rest := whole[len(whole)-int(position-c.next):]
			b.taken = max(b.taken, c.offset)
			b.users++
			c.next = position
			return stream.Append(nil, stream.Kind(whole[0]), rest)
		}
	}
	return nil
}
