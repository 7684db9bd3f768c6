package drivertest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-dev/banger/internal/driver"
	"github.com/banger-dev/banger/internal/driver/testguest"
)

// testLife goes through what a supervisor and its successor do with one guest.
func testLife(t *testing.T, make Make) {
	s := start(t, make)
	checkInfo(t, s)

	link := s.vm.Link()
	if link != s.vm.Link() {
		t.Error("Link is another value at the second call")
	}
	if _, err := link.Dial(t.Context(), testguest.PortEcho); !errors.Is(err, driver.ErrNoSession) {
		t.Errorf("Dial before Reset: %v", err)
	}
	select {
	case <-link.Broken():
	default:
		t.Error("Broken is open with no session")
	}

	// Connected before the guest runs, nothing of its console is lost.
	console := listen(t, s)
	s.run()
	console.expect(t, "guest: up")
	s.run() // of a running guest is no error
	s.reset()
	id := s.identity()

	checkSessions(t, s)
	checkNetwork(t, s)
	checkNetwork(t, s)
	checkConsole(t, s, console)
	checkSuccession(t, s, id)
}

func checkInfo(t *testing.T, s *subject) {
	t.Helper()
	info := s.vm.Info()
	if info.PID != s.handle.PID || info.Driver != s.driver.Name() || info.Accel != s.machine.Accel {
		t.Errorf("Info %+v of handle %+v", info, s.handle)
	}
	if s.handle.Driver != s.driver.Name() {
		t.Errorf("the handle names driver %q", s.handle.Driver)
	}
	if sid, err := unix.Getsid(info.PID); err != nil || sid != info.PID {
		t.Errorf("the VMM is in session %d, not in its own: %v", sid, err)
	}
}

// checkSessions breaks and renews the session.
func checkSessions(t *testing.T, s *subject) {
	t.Helper()
	text := strings.Repeat("0123456789abcdef", 64<<10)
	if got := s.ask(testguest.PortEcho, text[:200<<10]); got != text[:200<<10] {
		t.Errorf("echo: %d bytes back of %d", len(got), 200<<10)
	}
	link := s.vm.Link()
	broken := link.Broken()
	old, err := link.Dial(t.Context(), testguest.PortEcho)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	select {
	case <-broken:
		t.Fatal("Broken is closed in a session")
	default:
	}
	s.reset()
	await(t, broken, "Broken of the old session")
	old.SetDeadline(time.Now().Add(patience))
	if n, err := old.Read([]byte{0}); err == nil || n > 0 {
		t.Errorf("a stream of the old session: %d, %v", n, err)
	}
	if got := s.ask(testguest.PortEcho, "again"); got != "again" {
		t.Errorf("echo in the new session: %q", got)
	}
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
		t.Fatalf("%s: not within %s", what, patience)
	}
}

// checkNetwork exchanges a frame over a new connection.
func checkNetwork(t *testing.T, s *subject) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := s.vm.Network(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	frame := make([]byte, 64)
	copy(frame, "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01")
	binary.BigEndian.PutUint16(frame[12:], testguest.EtherType)
	copy(frame[14:], "over the wire")
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
	for {
		answer := readFrame(t, conn)
		if len(answer) < 64 || binary.BigEndian.Uint16(answer[12:]) != testguest.EtherType {
			continue // the guest's kernel has things of its own to say
		}
		if string(answer[:6]) != "\x02\x00\x00\x00\x00\x01" || !strings.HasPrefix(string(answer[14:]), "over the wire") {
			t.Errorf("frame %q", answer)
		}
		return
	}
}

func readFrame(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<17))
	if _, err := io.ReadFull(conn, frame); err != nil {
		t.Fatal(err)
	}
	return frame
}

// listener reads the console.
type listener struct {
	conn  io.ReadCloser
	lines *bufio.Scanner
}

func listen(t *testing.T, s *subject) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := s.vm.Console(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &listener{conn, bufio.NewScanner(conn)}
}

// expect reads lines until one contains text.
func (l *listener) expect(t *testing.T, text string) {
	t.Helper()
	if said, ok := l.find(text); !ok {
		t.Fatalf("the console ended without %q: %v; it said:\n%s", text, l.lines.Err(), said)
	}
}

// find reads lines until one contains text, and returns what the others said.
func (l *listener) find(text string) (said string, ok bool) {
	timer := time.AfterFunc(patience, func() { l.conn.Close() })
	defer timer.Stop()
	var seen strings.Builder
	for l.lines.Scan() {
		if strings.Contains(l.lines.Text(), text) {
			return seen.String(), true
		}
		fmt.Fprintf(&seen, "%q\n", l.lines.Text())
	}
	return seen.String(), false
}

// hear has the guest say text until it is heard: a VMM may take a moment to see
// that an earlier listener has gone, and what the guest says meanwhile is lost.
func (l *listener) hear(t *testing.T, s *subject, text string) {
	t.Helper()
	heard := make(chan bool, 1)
	go func() {
		_, ok := l.find(text)
		heard <- ok
	}()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		s.ask(testguest.PortConsole, text+"\n")
		select {
		case ok := <-heard:
			if !ok {
				t.Fatalf("the console ended without %q: %v", text, l.lines.Err())
			}
			return
		case <-again.C:
		}
	}
}

// checkConsole listens, and listens anew.
func checkConsole(t *testing.T, s *subject, first *listener) {
	t.Helper()
	s.ask(testguest.PortConsole, "first words\n")
	first.expect(t, "first words")
	first.conn.Close()
	second := listen(t, s)
	second.hear(t, s, "second words")
	second.conn.Close()
}

// checkSuccession releases the VMM and adopts it, in this process.
func checkSuccession(t *testing.T, s *subject, id string) {
	t.Helper()
	old := s.vm
	if err := old.Release(); err != nil {
		t.Fatal(err)
	}
	await(t, old.Link().Broken(), "Broken after Release")
	if !s.alive() {
		t.Fatal("Release ended the VMM")
	}
	s.adopt()
	checkInfo(t, s)
	s.run() // the guest runs already
	s.reset()
	if got := s.identity(); got != id {
		t.Errorf("guest %s after the adoption, %s before", got, id)
	}
	checkNetwork(t, s)
	console := listen(t, s)
	console.hear(t, s, "to the successor")
}
