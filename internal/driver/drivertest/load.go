package drivertest

import (
	"io"
	"sync"
	"testing"

	"github.com/banger-dev/banger/internal/driver/testguest"
)

// floodedCopies is how many copies are made, one after the other, of a guest
// that was frozen under load. Where bytes move while a guest is frozen, one in
// ten fails to load.
const floodedCopies = 20

// testFrozenUnderLoad: a guest that is frozen while bytes move both ways can be
// restored, every time.
func testFrozenUnderLoad(t *testing.T, make Make, load func(*subject)) {
	s := startFreezable(t, make)
	s.run()
	s.reset()
	id := s.identity()
	load(s)
	s.freeze()
	for n := range floodedCopies {
		c := s.restore()
		c.run()
		c.reset()
		if got := c.identity(); got != id {
			t.Errorf("copy %d of guest %s is %s", n, id, got)
		}
		c.destroy()
	}
}

// loadStreams has streams carry what they can, both ways, until the link ends.
func loadStreams(s *subject) {
	const streams, before = 4, 8 << 20 // bytes that each has carried before it returns
	var flowing, done sync.WaitGroup
	for range streams {
		conn, err := s.vm.Link().Dial(s.t.Context(), testguest.PortEcho)
		if err != nil {
			s.t.Fatal(err)
		}
		flowing.Add(1)
		done.Go(func() {
			for block := make([]byte, 64<<10); ; {
				if _, err := conn.Write(block); err != nil {
					return
				}
			}
		})
		done.Go(func() {
			defer conn.Close()
			_, err := io.CopyN(io.Discard, conn, before/streams)
			flowing.Done()
			if err == nil {
				io.Copy(io.Discard, conn)
			}
		})
	}
	flowing.Wait()
	s.t.Cleanup(done.Wait)
}

// loadJunk has the guest fill its ring for as long as it runs, and the host
// send what nobody reads.
func loadJunk(s *subject) {
	link := s.vm.Link()
	broken := link.Broken()
	stalled, err := link.Dial(s.t.Context(), testguest.PortFlood)
	if err != nil {
		s.t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		defer stalled.Close()
		for block := make([]byte, 64<<10); ; {
			if _, err := stalled.Write(block); err != nil {
				return
			}
		}
	})
	s.t.Cleanup(done.Wait)
	// The host has told junk from frames, and so the guest is at it.
	await(s.t, broken, "Broken under junk")
}
