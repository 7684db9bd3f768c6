package logfile

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// A log whose lines a guest can cause takes burst of them at once, and one more
// each refill.
const (
	burst  = 200
	refill = time.Second
)

// Paced passes lines on, one a Write, and leaves out those that come too fast. It
// says how many when it takes lines again. Its methods may be called from any
// goroutine.
type Paced struct {
	w   io.Writer
	now func() time.Time

	mu      sync.Mutex
	left    int
	at      time.Time
	dropped int
}

// NewPaced returns a Paced before w.
func NewPaced(w io.Writer) *Paced {
	return &Paced{w: w, now: time.Now, left: burst, at: time.Now()}
}

// Write implements io.Writer. A line that is left out is no error.
func (p *Paced) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := int(p.now().Sub(p.at) / refill); n > 0 {
		p.left = min(burst, p.left+n)
		p.at = p.at.Add(time.Duration(n) * refill)
	}
	if p.left == 0 {
		p.dropped++
		return len(line), nil
	}
	p.left--
	if p.dropped > 0 {
		fmt.Fprintf(p.w, "(%d lines left out: they came too fast)\n", p.dropped)
		p.dropped = 0
	}
	return p.w.Write(line)
}
