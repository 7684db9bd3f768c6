package policy

import (
	"net/netip"
	"slices"
	"time"
)

const (
	// maxAnswers is how many pairs of name and address are remembered: what a
	// guest that asks without end can make this process keep.
	maxAnswers = 8192
	// maxKnown is how many names one address is remembered for.
	maxKnown = 32
	// MinTTL is the least time for which an answer is believed: between it and
	// the connection the guest may have to think. MaxTTL is the most.
	MinTTL = 30 * time.Second
	MaxTTL = 24 * time.Hour
)

// Answers remembers what names were answered with. It belongs to one goroutine,
// or to who holds the lock beside it.
type Answers struct {
	names map[netip.Addr][]answer // the last answered first
	count int
}

type answer struct {
	name string
	ends time.Time
}

// NewAnswers returns an empty memory.
func NewAnswers() *Answers { return &Answers{names: map[netip.Addr][]answer{}} }

// Add notes that name was answered with addr at now, to be believed for ttl.
// When there are too many, the ones that have ended go, and then any.
func (a *Answers) Add(name string, addr netip.Addr, ttl time.Duration, now time.Time) {
	addr, name = addr.Unmap().WithZone(""), cleanName(name)
	a.drop(addr, func(old answer) bool { return old.name == name })
	if a.count >= maxAnswers {
		a.makeRoom(now)
	}
	list := a.names[addr]
	if len(list) >= maxKnown {
		a.count--
		list = list[:maxKnown-1]
	}
	a.names[addr] = slices.Insert(list, 0, answer{name, now.Add(min(max(ttl, MinTTL), MaxTTL))})
	a.count++
}

// Known returns the names that lead to addr at now, the last answered first.
func (a *Answers) Known(addr netip.Addr, now time.Time) []string {
	var names []string
	for _, old := range a.names[addr.Unmap().WithZone("")] {
		if now.Before(old.ends) {
			names = append(names, old.name)
		}
	}
	return names
}

// drop forgets the answers of addr that match.
func (a *Answers) drop(addr netip.Addr, match func(answer) bool) {
	list, ok := a.names[addr]
	if !ok {
		return
	}
	left := slices.DeleteFunc(list, match)
	a.count -= len(list) - len(left)
	if len(left) == 0 {
		delete(a.names, addr)
		return
	}
	a.names[addr] = left
}

// makeRoom forgets all that has ended, or else an eighth of what there is.
func (a *Answers) makeRoom(now time.Time) {
	for addr := range a.names {
		a.drop(addr, func(old answer) bool { return !now.Before(old.ends) })
	}
	for addr := range a.names { // in no order, which a guest cannot foresee
		if a.count < maxAnswers-maxAnswers/8 {
			return
		}
		a.drop(addr, func(answer) bool { return true })
	}
}
