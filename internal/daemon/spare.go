package daemon

import (
	"context"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	banger "github.com/banger-dev/banger"
	"github.com/banger-dev/banger/api/vm/v1/vmv1connect"
	"github.com/banger-dev/banger/internal/config"
	"github.com/banger-dev/banger/internal/layout"
	"github.com/banger-dev/banger/internal/process"
)

const (
	// spareBytesEach is what a spare takes of the host's memory, measured as the
	// PSS of its VMM (73 MiB under emulation) and its supervisor.
	spareBytesEach = 88 * banger.MiB
	// spareRest is how many wait of a template that was used lately, where memory
	// allows; spareIdle is how long ago lately is.
	spareRest = 2
	spareIdle = 10 * time.Minute
	// spareBurst is the time in which VMs are counted that were started after one
	// another: as many wait for the next time.
	spareBurst = 10 * time.Second
	// spareTick is how often pools are looked at while there are any.
	spareTick = 30 * time.Second
	// spareHush is how long nothing is made after a start, while spares wait: making
	// takes all of a processor, which the command in that VM wants. A loop lives on
	// what waits, and when that is used up on what is made beside it.
	spareHush = 400 * time.Millisecond
	// maxArrivals bounds how many starts are remembered of a pool, maxPools how
	// many pools there are.
	maxArrivals = 512
	maxPools    = 16
)

// spare is a VM that waits to become somebody's: its directory has no record in
// the store, and layout.Instance.Spare in it.
type spare struct {
	id     string
	dir    layout.Instance
	recipe *recipe
	proc   *process.Handle
	// owner keeps the supervisor, until the spare is claimed.
	owner *os.File
	// grow is what the disks of who claims it are to have.
	grow   growth
	client vmv1connect.SupervisorClient
	hangUp func()
	// watch ends the goroutine that waits for the end of proc; ended is closed
	// when it has returned.
	watch context.CancelFunc
	ended chan struct{}
}

// pool is the spares of one template.
type pool struct {
	recipe *recipe
	ready  []*spare // the oldest first
	making int
	// arrivals are the starts of its shape, the oldest first.
	arrivals []time.Time
	strikes  int
}

// spares keeps spares of the templates that are used.
//
//	a start of a template's shape → noted → the pool's target → makers, one
//	after the other → ready → taken by one start, or ended: no longer wanted,
//	or the daemon ends
type spares struct {
	d   *Daemon
	log *slog.Logger
	// wake has room for one: there is something to look at.
	wake chan struct{}

	mu    sync.Mutex
	pools map[string]*pool
}

func newSpares(d *Daemon) *spares {
	return &spares{d: d, log: d.log, wake: make(chan struct{}, 1), pools: map[string]*pool{}}
}

// noted remembers a start; nil is one that no template could be used for.
func (s *spares) noted(f *firstRun) {
	if f == nil {
		return
	}
	r, now := f.recipe, time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[r.key]
	if p == nil {
		s.makeRoom()
		p = &pool{}
		s.pools[r.key] = p
	}
	p.recipe = r
	p.arrivals = append(p.arrivals, now)
	if extra := len(p.arrivals) - maxArrivals; extra > 0 {
		p.arrivals = slices.Delete(p.arrivals, 0, extra)
	}
}

// makeRoom forgets the pool that was used the longest ago, if there are too many
// and it has nothing.
func (s *spares) makeRoom() {
	if len(s.pools) < maxPools {
		return
	}
	oldest := ""
	for key, p := range s.pools {
		if len(p.ready)+p.making == 0 && (oldest == "" || p.used().Before(s.pools[oldest].used())) {
			oldest = key
		}
	}
	delete(s.pools, oldest)
}

// used is when a VM of the pool's shape was started last.
func (p *pool) used() time.Time {
	if len(p.arrivals) == 0 {
		return time.Time{}
	}
	return p.arrivals[len(p.arrivals)-1]
}

// wanted is how many should wait at now: as many as were started in the busiest
// spareBurst of late.
func (p *pool) wanted(now time.Time) int {
	old := 0
	for old < len(p.arrivals) && now.Sub(p.arrivals[old]) > spareIdle {
		old++
	}
	p.arrivals = slices.Delete(p.arrivals, 0, old)
	if len(p.arrivals) == 0 || p.strikes >= maxStrikes {
		return 0
	}
	most, first := spareRest, 0
	for last, at := range p.arrivals {
		for at.Sub(p.arrivals[first]) > spareBurst {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// take takes the spare of r that was made first, if one waits: nobody else gets
// it.
func (s *spares) take(key string) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[key]
	if p == nil || len(p.ready) == 0 {
		return nil
	}
	taken := p.ready[0]
	p.ready = slices.Delete(p.ready, 0, 1)
	return taken
}

// put has a spare wait, again or for the first time. It reports false if it is
// not wanted any more.
func (s *spares) put(sp *spare) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[sp.recipe.key]
	if p == nil || s.d.life.Err() != nil {
		return false
	}
	p.ready = append(p.ready, sp)
	return true
}

// waiting counts the spares that wait, of one template or with "" of all.
func (s *spares) waiting(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for k, p := range s.pools {
		if key == "" || k == key {
			count += len(p.ready)
		}
	}
	return count
}

// most is how many spares there may be, by the config.
func (s *spares) most() int {
	cfg, err := s.d.opts.Config()
	if err != nil {
		return 0
	}
	return int(config.SpareBytes(cfg, s.d.opts.Host).Value / spareBytesEach)
}

// look has the pools looked at.
func (s *spares) look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run keeps the pools until ctx ends, and then ends all spares.
func (s *spares) run(ctx context.Context) {
	var work sync.WaitGroup
	hush := time.NewTimer(0)
	defer hush.Stop()
	for ctx.Err() == nil {
		hush.Reset(s.tend(ctx, &work))
		select {
		case <-s.wake:
		case <-hush.C:
		case <-ctx.Done():
		}
	}
	work.Wait()
	s.mu.Lock()
	excess := s.shrink(func(*pool) int { return 0 })
	s.mu.Unlock()
	s.endAll(excess, &work)
	work.Wait()
}

// tend brings every pool nearer to its target, and returns when it is to be done
// again at the latest. Those used last come first.
func (s *spares) tend(ctx context.Context, work *sync.WaitGroup) time.Duration {
	most, room, now := s.most(), s.room(), time.Now()
	there := s.templates()
	s.mu.Lock()
	order := make([]*pool, 0, len(s.pools))
	for _, p := range s.pools {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b *pool) int { return b.used().Compare(a.used()) })
	targets := map[*pool]int{}
	for _, p := range order {
		targets[p] = min(most, p.wanted(now))
		if !there[p.recipe.key] {
			targets[p] = 0
		}
		most -= targets[p]
	}
	excess := s.shrink(func(p *pool) int { return targets[p] })
	var begun []*recipe
	hush := s.hush(order, now)
	if hush == 0 {
		begun, hush = s.begin(order, targets, room), spareTick
	}
	for key, p := range s.pools {
		if targets[p] == 0 && len(p.arrivals) == 0 && p.making == 0 {
			delete(s.pools, key)
		}
	}
	s.mu.Unlock()
	s.endAll(excess, work)
	for _, r := range begun {
		work.Go(func() {
			sp, err := s.make(ctx, r)
			s.made(r, sp, err)
		})
	}
	return hush
}

// hush is how long nothing is to be made yet. The pool that was used last is the
// first of order.
func (s *spares) hush(order []*pool, now time.Time) time.Duration {
	if len(order) == 0 || len(order[0].ready) == 0 {
		return 0
	}
	return max(0, spareHush-now.Sub(order[0].used()))
}

// shrink takes the spares out of the pools that are over their targets. The
// caller holds mu.
func (s *spares) shrink(target func(*pool) int) (excess []*spare) {
	for _, p := range s.pools {
		if extra := len(p.ready) - target(p); extra > 0 {
			excess = append(excess, p.ready[:extra]...)
			p.ready = slices.Delete(p.ready, 0, extra)
		}
	}
	return excess
}

// templates are those of the pools that are there.
func (s *spares) templates() map[string]bool {
	there := map[string]bool{}
	s.mu.Lock()
	for key := range s.pools {
		there[key] = false
	}
	s.mu.Unlock()
	for key := range there {
		_, there[key] = s.d.templates.store.Find(key)
	}
	return there
}

// begin decides what is made now, while there is room for so many. The caller
// holds mu.
func (s *spares) begin(order []*pool, targets map[*pool]int, room int) (begun []*recipe) {
	making := 0
	for _, p := range order {
		making += p.making
	}
	for _, p := range order {
		for len(p.ready)+p.making < targets[p] && making < min(room, makers(s.d.opts.Host.CPUs)) {
			p.making++
			making++
			begun = append(begun, p.recipe)
		}
	}
	return begun
}

// makers is how many spares are made at once: the rest of the host is for those
// who wait.
func makers(cpus int) int { return max(1, cpus/2) }

// room is how many more the host has memory for: a quarter of it stays free.
func (s *spares) room() int {
	free, err := s.d.opts.Available()
	if err != nil {
		return 0
	}
	return int(max(0, free-s.d.opts.Host.MemoryBytes/4) / spareBytesEach)
}

// made is told how the making of a spare went.
func (s *spares) made(r *recipe, sp *spare, err error) {
	kept := err == nil && s.put(sp)
	s.mu.Lock()
	if p := s.pools[r.key]; p != nil {
		p.making--
		switch {
		case err == nil:
			p.strikes = 0
		case s.d.life.Err() == nil:
			p.strikes++
		}
	}
	s.mu.Unlock()
	switch {
	case err != nil && s.d.life.Err() == nil:
		s.log.Warn("a spare is not made", "template", r.key, "error", err)
	case err == nil && !kept:
		s.end(sp)
	}
	s.look()
}

// endAll ends spares beside the caller.
func (s *spares) endAll(list []*spare, work *sync.WaitGroup) {
	for _, sp := range list {
		work.Go(func() { s.end(sp) })
	}
}
