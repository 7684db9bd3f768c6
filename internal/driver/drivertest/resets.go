package drivertest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/driver/testguest"
)

const (
	// resetsVar sets how many resets the guest's link goes through; a VMM that
	// loses a little at each is found out by many.
	resetsVar = "BANGER_SOAK_RESETS"
	// fewResets is for the ordinary run.
	fewResets = 50
	// loaded is the bytes of a session's traffic that are back before it is reset.
	loaded = 128 << 10
)

// resets is how many there are to be.
func resets(t *testing.T) int {
	t.Helper()
	value := os.Getenv(resetsVar)
	if value == "" {
		return fewResets
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number of resets", resetsVar, value)
	}
	return n
}

// testResets: a link outlives any number of resets in the middle of the guest's
// output, and each session is free of the bytes of the one before.
func testResets(t *testing.T, make Make) {
	s := start(t, make)
	s.run()
	s.reset()
	id := s.identity()
	var slowest time.Duration
	n := 0
	defer func() { t.Logf("%d resets, the slowest %s", n, slowest) }()
	for want := resets(t); n < want; n++ {
		traffic := s.load()
		begun := time.Now()
		s.reset()
		slowest = max(slowest, time.Since(begun))
		if err := traffic.end(); err != nil {
			t.Fatalf("traffic before reset %d: %v", n+1, err)
		}
	}
	if got := s.identity(); got != id {
		t.Errorf("guest %s, then %s", id, got)
	}
}

// traffic is numbers sent through the guest's echo until the session ends.
type traffic struct {
	conn net.Conn
	all  sync.WaitGroup
	err  error // of what came back; valid after all
}

// load begins traffic and returns when enough of it has come back: both
// directions are full of more.
func (s *subject) load() *traffic {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn, err := s.vm.Link().Dial(ctx, testguest.PortEcho)
	if err != nil {
		s.t.Fatalf("%v%s", err, s.logs())
	}
	f := &traffic{conn: conn}
	back := make(chan struct{})
	f.all.Go(func() { writeNumbers(conn) })
	f.all.Go(func() { f.err = readNumbers(conn, sync.OnceFunc(func() { close(back) })) })
	await(s.t, back, "the guest's echo")
	return f
}

// end waits for the traffic, whose session has been reset. The error is a number
// that was lost or stale.
func (f *traffic) end() error {
	f.conn.SetDeadline(time.Now().Add(patience))
	f.all.Wait()
	f.conn.Close()
	return f.err
}

// writeNumbers counts on w until w fails.
func writeNumbers(w io.Writer) {
	buf := make([]byte, 0, 32<<10)
	for i := uint64(0); ; {
		buf = buf[:0]
		for len(buf) < cap(buf) {
			buf = binary.LittleEndian.AppendUint64(buf, i)
			i++
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

// readNumbers reads what writeNumbers wrote until r fails, and calls enough once
// there was that much of it.
func readNumbers(r io.Reader, enough func()) error {
	in, buf := bufio.NewReaderSize(r, 64<<10), make([]byte, 8)
	for i := uint64(0); ; i++ {
		if i == loaded/8 {
			enough()
		}
		if _, err := io.ReadFull(in, buf); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return errors.New("a stream of an old session neither ends nor goes on")
			}
			return nil
		}
		if got := binary.LittleEndian.Uint64(buf); got != i {
			return fmt.Errorf("%d came back where %d was sent", got, i)
		}
	}
}
