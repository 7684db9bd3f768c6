package guestexec

import (
	"fmt"
	"io"
	"sync"

	"github.com/banger-dev/banger/api/stream"
)

// input keeps what was read of Stdin until the agent has it.
type input struct {
	poke func()

	mu      sync.Mutex
	room    *sync.Cond // there is space, or it is closed
	ring    ring
	sent    uint64 // handed to the present connection
	eof     bool
	eofSent bool
	closed  bool
}

func newInput(poke func()) *input {
	in := &input{poke: poke}
	in.room = sync.NewCond(&in.mu)
	return in
}

// pump reads src to its end, never further ahead of the agent than the window.
func (in *input) pump(src io.Reader) {
	in.mu.Lock()
	in.ring = newRing(stream.Unacked)
	in.mu.Unlock()
	for {
		space := in.awaitSpace()
		if space == nil {
			return
		}
		// The space is free: nobody else looks at it until head has moved.
		n, err := src.Read(space)
		if !in.add(n, err) {
			return
		}
	}
}

// awaitSpace returns free space, or nil when the input is closed.
func (in *input) awaitSpace() []byte {
	in.mu.Lock()
	defer in.mu.Unlock()
	for in.ring.free() == 0 && !in.closed {
		in.room.Wait()
	}
	if in.closed {
		return nil
	}
	return in.ring.space(stream.MaxPayload)
}

// add counts n more bytes; it reports whether to go on. An input that fails has
// ended as far as the guest can know.
func (in *input) add(n int, err error) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.closed {
		return false
	}
	in.ring.head += uint64(n)
	in.eof = err != nil
	in.poke()
	return err == nil
}

// close ends the pump as soon as its Read returns.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
	in.room.Broadcast()
}

// next returns the next bytes to send, and whether the end comes after them.
// The bytes stay valid until they are acknowledged.
func (in *input) next() (chunk []byte, eof bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ring.buf != nil && in.sent < in.ring.head {
		chunk = in.ring.from(in.sent, stream.MaxPayload)
		in.sent += uint64(len(chunk))
	}
	if in.eof && !in.eofSent && in.sent == in.ring.head {
		in.eofSent = true
		return chunk, true
	}
	return chunk, false
}

// ack notes that the agent has the first n bytes.
func (in *input) ack(n uint64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n > in.sent {
		return fmt.Errorf("%w: %d bytes of input acknowledged, %d sent", stream.ErrFrame, n, in.sent)
	}
	if n > in.ring.tail {
		in.ring.tail = n
		in.room.Broadcast()
	}
	return nil
}

// resume prepares a connection to an agent that has the first n bytes.
func (in *input) resume(n uint64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if n < in.ring.tail || n > in.sent {
		return fmt.Errorf("%w: the agent says it has %d bytes of input; it had acknowledged %d of %d",
			stream.ErrFrame, n, in.ring.tail, in.sent)
	}
	in.ring.tail, in.sent, in.eofSent = n, n, false
	in.room.Broadcast()
	return nil
}

func (in *input) acknowledged() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ring.tail
}
