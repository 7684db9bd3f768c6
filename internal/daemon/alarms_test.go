package daemon

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// bells is what alarms ring for.
type bells struct {
	mu    sync.Mutex
	list  map[string]time.Time
	rung  []string
	reads int
	// ring, if set, is called for each; what is rung without an error is off the list.
	ring func(id string) error
}

func (b *bells) times() map[string]time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	return maps.Clone(b.list)
}

func (b *bells) set(id string, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.list[id] = at
}

func (b *bells) do(id string) error {
	var err error
	if b.ring != nil {
		err = b.ring(id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rung = append(b.rung, id)
	if err == nil {
		delete(b.list, id)
	}
	return err
}

func (b *bells) expect(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.rung, want) {
		t.Errorf("rung: %v, want %v", b.rung, want)
	}
}

// ringing runs alarms in a bubble.
func ringing(t *testing.T, f func(t *testing.T, b *bells, a *alarms)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bells{list: map[string]time.Time{}}
		a := newAlarms(time.Minute, b.times, b.do)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { a.run(ctx) })
		f(t, b, a)
		cancel()
		running.Wait()
	})
}

func TestAlarmsRingInTime(t *testing.T) {
	ringing(t, func(t *testing.T, b *bells, a *alarms) {
		now := time.Now()
		b.set("past", now.Add(-time.Hour))
		a.look()
		b.expect(t, "past")
		b.set("late", now.Add(3*time.Hour))
		b.set("soon", now.Add(time.Hour))
		a.look()
		b.expect(t, "past")
		time.Sleep(time.Hour)
		b.expect(t, "past", "soon")
		b.set("late", now.Add(4*time.Hour)) // put off
		a.look()
		time.Sleep(3*time.Hour - time.Second)
		b.expect(t, "past", "soon")
		time.Sleep(time.Second)
		b.expect(t, "past", "soon", "late")
		if len(a.set) != 0 {
			t.Errorf("left: %v", a.set)
		}
		reads := b.reads
		time.Sleep(1000 * time.Hour)
		if synctest.Wait(); b.reads != reads {
			t.Errorf("it woke %d times with nothing to do", b.reads-reads)
		}
	})
}

// One that is taken off the list in time does not ring.
func TestAlarmTakenBack(t *testing.T) {
	ringing(t, func(t *testing.T, b *bells, a *alarms) {
		b.set("dev", time.Now().Add(time.Hour))
		a.look()
		synctest.Wait()
		delete(b.list, "dev")
		time.Sleep(2 * time.Hour)
		b.expect(t)
	})
}

// One that fails is tried again, and one that takes long holds up nobody and is not
// done twice.
func TestAlarmsThatFailOrHang(t *testing.T) {
	ringing(t, func(t *testing.T, b *bells, a *alarms) {
		failures := 2
		free := make(chan struct{})
		b.ring = func(id string) error {
			if id == "slow" {
				<-free
			}
			if id == "bad" && failures > 0 {
				failures--
				return errors.New("no")
			}
			return nil
		}
		now := time.Now()
		b.set("slow", now.Add(time.Second))
		b.set("bad", now.Add(2*time.Second))
		a.look()
		time.Sleep(2 * time.Second)
		b.expect(t, "bad")
		time.Sleep(59 * time.Second)
		a.look()
		b.expect(t, "bad")
		time.Sleep(time.Second)
		b.expect(t, "bad", "bad")
		time.Sleep(time.Minute)
		b.expect(t, "bad", "bad", "bad")
		close(free)
		b.expect(t, "bad", "bad", "bad", "slow")
	})
}
