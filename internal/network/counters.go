package network

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/banger-dev/banger/internal/policy"
)

// Counters is what a network has carried since it was made.
type Counters struct {
	// Bytes and packets are Ethernet frames without the length before each:
	// From came from the guest, To went to it.
	BytesFrom, BytesTo     uint64
	PacketsFrom, PacketsTo uint64
	// Malformed counts frames from the guest that are not what they claim to
	// be; Ignored those of a kind that this network does not carry (IPv6,
	// multicast, other senders).
	Malformed, Ignored uint64
	// Lost counts frames for the guest that it did not take in time.
	Lost uint64
	// Accepted counts the flows (TCP connections, UDP flows, DNS queries) that
	// the policy let through, Failed those of them that could not be made
	// outside, Open those that are there now.
	Accepted, Failed uint64
	Open             int
	// Refused counts the other flows, and those that ended because the policy
	// changed or for what they sent, by reason.
	Refused map[policy.Reason]uint64
	// WouldRefuse counts what was let through to learn from it.
	WouldRefuse uint64
}

type counters struct {
	bytesFrom, bytesTo, packetsFrom, packetsTo atomic.Uint64
	malformed, ignored, lost                   atomic.Uint64
	accepted, failed, wouldRefuse              atomic.Uint64
	open                                       atomic.Int64

	mu      sync.Mutex
	refused map[policy.Reason]uint64
}

func newCounters() *counters { return &counters{refused: map[policy.Reason]uint64{}} }

func (c *counters) refuse(reason policy.Reason) {
	c.mu.Lock()
	c.refused[reason]++
	c.mu.Unlock()
}

// Counters returns a copy of the figures of this moment.
func (n *Network) Counters() Counters {
	c := n.counters
	c.mu.Lock()
	refused := maps.Clone(c.refused)
	c.mu.Unlock()
	return Counters{
		BytesFrom: c.bytesFrom.Load(), BytesTo: c.bytesTo.Load(),
		PacketsFrom: c.packetsFrom.Load(), PacketsTo: c.packetsTo.Load(),
		Malformed: c.malformed.Load(), Ignored: c.ignored.Load(), Lost: c.lost.Load(),
		Accepted: c.accepted.Load(), Failed: c.failed.Load(),
		Open: int(c.open.Load()), Refused: refused, WouldRefuse: c.wouldRefuse.Load(),
	}
}
