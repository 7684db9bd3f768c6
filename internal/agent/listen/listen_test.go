package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"google.golang.org/protobuf/proto"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 00000000 100 0 0 10 0
   1: 027FA8C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4712 1 00000000 100 0 0 10 0
   2: 027FA8C0:0050 017FA8C0:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4713 1 00000000 100 0 0 10 0
   3: garbage that nobody reads
`

func TestParseTable(t *testing.T) {
	list, err := parseTable(strings.NewReader(table), nil)
	want := []socket{{netip.MustParseAddr("127.0.0.1"), 3000, 4711}, {netip.MustParseAddr("192.168.127.2"), 80, 4712}}
	if err != nil || !slices.Equal(list, want) {
		t.Errorf("%v, %v", list, err)
	}
	six := "head\n 0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 9 1\n"
	list, err = parseTable(strings.NewReader(six), nil)
	if err != nil || len(list) != 1 || list[0].addr != netip.IPv6Loopback() || list[0].port != 8080 {
		t.Errorf("%v, %v", list, err)
	}
}

// The agent's own tables are the kernel's; still, a line that is none must not
// end the agent.
func FuzzParseTable(f *testing.F) {
	f.Add(table)
	f.Add("\n\n:::: 0A")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseTable(strings.NewReader(text), nil)
		if err == nil && len(list) > maxRead {
			t.Errorf("%d sockets", len(list))
		}
	})
}

func TestFindsTheHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint32(l.Addr().(*net.TCPAddr).Port)
	w := NewWatcher()
	w.self = -1 // else this process is passed over
	find := func() *agentv1.Listener {
		w.counts = [2]string{} // other programs open and close sockets meanwhile
		if _, err := w.scan(); err != nil {
			t.Fatal(err)
		}
		for _, l := range w.message().Listeners {
			if l.Port == port && slices.Equal(l.Address, []byte{127, 0, 0, 1}) {
				return l
			}
		}
		return nil
	}
	if l := find(); l == nil || int(l.Pid) != os.Getpid() || l.Process == "" || l.Command == "" {
		t.Errorf("found %v", l)
	}
	w.self = os.Getpid()
	if l := find(); l != nil {
		t.Errorf("the agent's own socket is told: %v", l)
	}
	w.self = -1
	l.Close()
	if l := find(); l != nil {
		t.Errorf("a closed socket is told: %v", l)
	}
}

// writeTables makes a procfs with these sockets, all of process 7.
func writeTables(t *testing.T, proc, tcp string) {
	t.Helper()
	for name, text := range map[string]string{"net/tcp": tcp, "net/sockstat": "sockets: used 9\nTCP: inuse 2 orphan 0\n", "7/comm": "ser\xffver\n", "7/cmdline": "server\x00--port\x00" + strings.Repeat("ü", 200)} {
		os.MkdirAll(proc+"/net", 0o755)
		os.MkdirAll(proc+"/7/fd", 0o755)
		if err := os.WriteFile(proc+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(proc + "/7/fd/3")
	if err := os.Symlink("socket:[4711]", proc+"/7/fd/3"); err != nil {
		t.Fatal(err)
	}
}

func TestSendsChangesOnly(t *testing.T) {
	proc := t.TempDir()
	writeTables(t, proc, table)
	synctest.Test(t, func(t *testing.T) {
		enough := errors.New("enough")
		w := &Watcher{proc: proc, self: -1, holders: map[uint64]*holder{}}
		var got []*agentv1.ListenersResponse
		ctx, cancel := context.WithTimeoutCause(t.Context(), 30*every, enough)
		defer cancel()
		err := w.Run(ctx, func(m *agentv1.ListenersResponse) error {
			got = append(got, m)
			if len(got) == 1 {
				writeTables(t, proc, strings.Replace(table, "0BB8", "0BB9", 1))
			}
			return nil
		})
		if err != enough || len(got) != 2 {
			t.Fatalf("%d messages, %v", len(got), err)
		}
		if l := got[0].Listeners; len(l) != 2 || l[0].Port != 80 || l[1].Pid != 7 || l[1].Process != "server" {
			t.Errorf("first %v", l)
		}
		if l := got[1].Listeners; l[1].Port != 3001 || !strings.HasPrefix(l[1].Command, "server --port ü") || !utf8.ValidString(l[1].Command) {
			t.Errorf("second %v", l)
		}
	})
}

// TestCount: while the number of sockets is the same the tables are read at times
// only; with another at once.
func TestCount(t *testing.T) {
	proc := t.TempDir()
	writeTables(t, proc, table)
	if n := count(proc+"/net/sockstat", "TCP: inuse "); n != "2" {
		t.Fatalf("counted %q", n)
	}
	w := &Watcher{proc: proc, self: -1, holders: map[uint64]*holder{}}
	scan := func() bool {
		changed, err := w.scan()
		if err != nil {
			t.Fatal(err)
		}
		return changed
	}
	for range searches { // until nobody is looked for any more
		scan()
	}
	other := strings.Replace(table, "0BB8", "0BB9", 1)
	writeTables(t, proc, other)
	seen := 0
	for n := 1; n <= fully; n++ {
		if scan() {
			seen = n
		}
	}
	if seen != fully {
		t.Errorf("one for another was seen by scan %d of %d", seen, fully)
	}
	writeTables(t, proc, table)
	if err := os.WriteFile(proc+"/net/sockstat", []byte("TCP: inuse 3 orphan 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !scan() {
		t.Error("one more is not seen at once")
	}
}

func TestMessageIsBounded(t *testing.T) {
	w := &Watcher{holders: map[uint64]*holder{}}
	for i := range 2 * maxListeners {
		w.sockets = append(w.sockets, socket{netip.IPv6Loopback(), uint16(i + 10000), uint64(i)})
		w.holders[uint64(i)] = &holder{process: process{1 << 20, strings.Repeat("n", maxName), strings.Repeat("c", maxCommand)}}
	}
	m := w.message()
	if size := proto.Size(m); len(m.Listeners) != maxListeners || !m.More || size > 60<<10 {
		t.Errorf("%d listeners, more %v, %d bytes", len(m.Listeners), m.More, size)
	}
}
