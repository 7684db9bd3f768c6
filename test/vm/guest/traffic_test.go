package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/banger-dev/banger/internal/guestlink"
	"github.com/banger-dev/banger/internal/linkwire"
)

// rounds is how often the link is broken in mid-traffic.
const rounds = 50

// resets is how often it is reset: rounds, or BANGER_SOAK_RESETS.
func resets() int {
	if n, err := strconv.Atoi(os.Getenv("BANGER_SOAK_RESETS")); err == nil && n > 0 {
		return n
	}
	return rounds
}

// count writes numbers until w fails.
func count(w io.Writer) {
	buf := make([]byte, 0, 32<<10)
	for i := uint64(0); ; {
		for buf = buf[:0]; len(buf) < cap(buf); i++ {
			buf = binary.LittleEndian.AppendUint64(buf, i)
		}
		if _, err := w.Write(buf); err != nil {
			return
		}
	}
}

// verify reads numbers until r fails, and tells how many bytes there were so
// far. It returns nil at the first number that is not the next.
func verify(r io.Reader, read func(total int64)) error {
	in, buf := bufio.NewReaderSize(r, 64<<10), make([]byte, 8)
	for i := uint64(0); ; i++ {
		if _, err := io.ReadFull(in, buf); err != nil {
			return err
		}
		if binary.LittleEndian.Uint64(buf) != i {
			return nil
		}
		read(int64(8 * (i + 1)))
	}
}

const (
	// echoTarget is what a forward to the guest's echo server begins with.
	echoTarget = "127.0.0.1:7\n"
	// loadBytes have come back before the link is broken.
	loadBytes = 512 << 10
)

// load sends numbers both ways over l and leaves with all in flight; the
// verdict comes when the session has ended.
func load(t *testing.T, l *guestlink.Link) <-chan error {
	t.Helper()
	conn, err := l.Dial(bounded(t), linkwire.PortForward)
	must(t, err)
	_, err = conn.Write([]byte(echoTarget))
	must(t, err)
	enough, verdict := make(chan struct{}), make(chan error, 1)
	tell := sync.OnceFunc(func() { close(enough) })
	go func() {
		verdict <- verify(conn, func(total int64) {
			if total > loadBytes {
				tell()
			}
		})
	}()
	go count(conn)
	select {
	case <-enough:
	case err := <-verdict:
		t.Fatalf("traffic ended: %v", err)
	case <-bounded(t).Done():
		t.Fatal("no traffic")
	}
	return verdict
}

// loaded is a VM with an echo server.
func loaded(t *testing.T) *machine {
	m := newMachine(t, bare(t))
	m.start()
	m.answer()
	m.sh("busybox nc -ll -p 7 -e cat </dev/null >/dev/null 2>&1 & until grep -q ':0007 ' /proc/net/tcp /proc/net/tcp6; do sleep 0.1; done")
	return m
}

func TestResetInMidTraffic(t *testing.T) {
	m := loaded(t)
	var verdicts []<-chan error
	var times []time.Duration
	for range resets() {
		verdicts = append(verdicts, load(t, m.link))
		at := time.Now()
		must(t, m.link.Reset(bounded(t), nil))
		times = append(times, time.Since(at))
	}
	m.expect("echo whole", "whole")
	for _, v := range verdicts {
		if <-v == nil {
			t.Error("a byte was lost or stale")
		}
	}
	slices.Sort(times)
	t.Logf("%d resets: median %v, most %v", len(times), times[len(times)/2], times[len(times)-1])
}

// supervisorVar makes a process of the test binary a supervisor of the VM whose
// sockets lie in that directory.
const supervisorVar = "GUEST_TEST_SUPERVISOR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(supervisorVar); dir != "" {
		if err := supervise(dir); err != nil {
			fmt.Println(err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// supervise resets the link, loads it both ways, says "loaded", and goes on
// until it is killed.
func supervise(dir string) error {
	m := &machine{dir: dir, ended: make(chan struct{})}
	l := m.openLink()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	if err := l.Reset(ctx, nil); err != nil {
		return err
	}
	conn, err := l.Dial(ctx, linkwire.PortForward)
	if err != nil {
		return err
	}
	if _, err := conn.Write([]byte(echoTarget)); err != nil {
		return err
	}
	go count(conn)
	started := sync.OnceFunc(func() { fmt.Println("loaded") })
	if err := verify(conn, func(total int64) {
		if total > loadBytes {
			started()
		}
	}); err != nil {
		return err
	}
	return errors.New("a byte was lost or stale")
}

// TestSupervisorKilledInMidTraffic: it gets SIGKILL, and another one dials.
func TestSupervisorKilledInMidTraffic(t *testing.T) {
	m := loaded(t)
	m.link.Close()
	for range rounds {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), supervisorVar+"="+m.dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		cmd.Process.Kill()
		cmd.Wait()
		if line != "loaded\n" {
			t.Fatalf("supervisor: %q, %v", line, err)
		}
	}
	m.link = m.newLink()
	m.answer()
	m.expect("echo whole", "whole")
}
