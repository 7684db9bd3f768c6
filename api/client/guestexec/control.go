package guestexec

import (
	"sync"
	"syscall"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"github.com/banger-dev/banger/api/stream"
	"google.golang.org/protobuf/proto"
)

// maxSignals bounds the signals that wait for a connection.
const maxSignals = 64

// control keeps signals and the terminal's size until they are sent.
type control struct {
	poke func()

	mu      sync.Mutex
	latest  *Size
	resized bool
	signals []syscall.Signal
}

// collect takes what comes until stop is closed.
func (c *control) collect(stop <-chan struct{}, resize <-chan Size, signals <-chan syscall.Signal) {
	for {
		select {
		case <-stop:
			return
		case size, ok := <-resize:
			if !ok {
				resize = nil
				continue
			}
			c.mu.Lock()
			c.latest, c.resized = &size, true
			c.mu.Unlock()
		case signal, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			c.mu.Lock()
			if len(c.signals) < maxSignals {
				c.signals = append(c.signals, signal)
			}
			c.mu.Unlock()
		}
		c.poke()
	}
}

// size is the latest size, or first if there was no other.
func (c *control) size(first Size) Size {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.latest != nil {
		return *c.latest
	}
	return first
}

// appendFrames encodes what waits to be sent.
func (c *control) appendFrames(b []byte) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resized {
		c.resized = false
		b = appendMessage(b, stream.Resize, &agentv1.WindowSize{
			Rows: uint32(c.latest.Rows), Cols: uint32(c.latest.Cols)})
	}
	for _, signal := range c.signals {
		b = appendMessage(b, stream.Signal, &agentv1.ExecSignal{Signal: int32(signal)})
	}
	c.signals = nil
	return b
}

// appendMessage encodes a frame with a message in it.
func appendMessage(b []byte, kind stream.Kind, msg proto.Message) []byte {
	payload, err := proto.Marshal(msg)
	if err != nil {
		panic(err) // only invalid UTF-8 in a string field, and these have none
	}
	return stream.Append(b, kind, payload)
}
