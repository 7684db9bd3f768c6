package guestexec

import (
	"io"
	"sync"

	"github.com/banger-dev/banger/api/stream"
)

const (
	// outputSize is the agent's window and a little more, so that one which
	// counts whole chunks is still within it.
	outputSize = stream.Unacked + 2*stream.MaxPayload
	// ackAfter is how many delivered bytes are worth a frame.
	ackAfter = stream.AckEvery / 2
)

// span is a run of bytes of one stream.
type span struct {
	kind stream.Kind
	n    uint32
}

// output keeps what came from the guest until it is written, so that a slow
// writer never stops the reader of the connection.
type output struct {
	poke func()

	mu     sync.Mutex
	more   *sync.Cond // something changed: bytes, room, the end
	ring   ring
	spans  []span
	acked  uint64
	closed bool
	drop   bool
	failed error
}

func newOutput(poke func()) *output {
	out := &output{poke: poke}
	out.more = sync.NewCond(&out.mu)
	return out
}

// put takes the payload of a Stdout or Stderr frame. It waits for room only if
// the agent overruns its window, as it may after a broken link: what had been
// received but not delivered no longer counts on its side.
func (out *output) put(kind stream.Kind, p []byte) {
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.ring.buf == nil {
		out.ring = newRing(outputSize)
	}
	for len(p) > out.ring.free() && !out.closed && out.failed == nil {
		out.more.Wait()
	}
	if len(p) == 0 || out.closed || out.failed != nil {
		return
	}
	out.ring.write(p)
	if last := len(out.spans) - 1; last >= 0 && out.spans[last].kind == kind {
		out.spans[last].n += uint32(len(p))
	} else {
		out.spans = append(out.spans, span{kind, uint32(len(p))})
	}
	out.more.Broadcast()
}

// drain writes what comes until close; it returns the first failed write.
func (out *output) drain(stdout, stderr io.Writer) error {
	for {
		kind, p := out.await()
		if p == nil {
			return nil
		}
		w := stdout
		if kind == stream.Stderr {
			w = stderr
		}
		if _, err := w.Write(p); err != nil {
			out.mu.Lock()
			out.failed = err
			out.more.Broadcast()
			out.mu.Unlock()
			return err
		}
		out.written(len(p))
	}
}

// await returns the next contiguous bytes of one stream, or nil at the end.
func (out *output) await() (stream.Kind, []byte) {
	out.mu.Lock()
	defer out.mu.Unlock()
	for len(out.spans) == 0 && !out.closed {
		out.more.Wait()
	}
	if len(out.spans) == 0 || out.drop {
		return 0, nil
	}
	first := out.spans[0]
	return first.kind, out.ring.from(out.ring.tail, int(first.n))
}

// written counts n delivered bytes and asks for an Ack when they are many.
func (out *output) written(n int) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.ring.tail += uint64(n)
	if out.spans[0].n -= uint32(n); out.spans[0].n == 0 {
		out.spans = out.spans[1:]
	}
	out.more.Broadcast()
	if out.ring.tail >= out.acked+ackAfter {
		out.poke()
	}
}

// ackDue returns the count to acknowledge, if it is time.
func (out *output) ackDue() (uint64, bool) {
	out.mu.Lock()
	defer out.mu.Unlock()
	if out.ring.tail < out.acked+ackAfter {
		return 0, false
	}
	out.acked = out.ring.tail
	return out.acked, true
}

// joined notes what the agent was told in Start: that counts as acknowledged,
// although a part of it may not be delivered yet.
func (out *output) joined(received uint64) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.acked = received
}

// close ends drain: after the last byte, or at once with drop.
func (out *output) close(drop bool) {
	out.mu.Lock()
	defer out.mu.Unlock()
	out.closed, out.drop = true, out.drop || drop
	out.more.Broadcast()
}

func (out *output) err() error {
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.failed
}

// count is how many bytes have been received.
func (out *output) count() uint64 {
	out.mu.Lock()
	defer out.mu.Unlock()
	return out.ring.head
}
