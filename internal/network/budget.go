package network

import "sync"

const (
	// maxFlows is how many TCP connections one guest may have open outside.
	maxFlows = 4096
	// maxFlowBuffer and minFlowBuffer are what a connection's receive buffer,
	// and likewise its send buffer, may take, in bytes.
	maxFlowBuffer = 1 << 20
	minFlowBuffer = 16 << 10
	// bufferBudget is what the buffers of all connections share, in bytes,
	// beyond minFlowBuffer for each. With every flow open and stuffed by a
	// hostile guest this process was seen to take 200 to 300 MB, which it gives
	// back; an honest guest costs next to nothing, as buffers are taken only
	// while data waits in them.
	bufferBudget = 16 << 20
)

// budget shares out the memory of flows. The first take the most, so that a few
// connections are as fast as can be, and many are still bounded.
type budget struct {
	mu    sync.Mutex
	flows int
	left  int
}

func newBudget() *budget { return &budget{left: bufferBudget} }

// take returns the size for each of a new flow's two buffers; it is false when
// there are too many flows. The caller gives the size back.
func (b *budget) take() (size int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flows >= maxFlows {
		return 0, false
	}
	b.flows++
	size = min(max(b.left/16, minFlowBuffer), maxFlowBuffer)
	b.left -= size
	return size, true
}

func (b *budget) give(size int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flows--
	b.left += size
}
