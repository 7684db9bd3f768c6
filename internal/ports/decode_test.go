package ports

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	agentv1 "github.com/banger-dev/banger/api/agent/v1"
	"google.golang.org/protobuf/proto"
)

func said(port uint32, pid int32, addr string) *agentv1.Listener {
	return &agentv1.Listener{Address: netip.MustParseAddr(addr).AsSlice(), Port: port, Pid: pid, Process: "p", Command: "p -x"}
}

func TestDecode(t *testing.T) {
	list, more := Decode(&agentv1.ListenersResponse{Listeners: []*agentv1.Listener{
		said(3000, 7, "::"), said(3000, 7, "0.0.0.0"), // twins
		said(53, 8, "127.0.0.53"), said(53, 9, "0.0.0.0"), // two servers
		said(80, 1, "::ffff:127.0.0.1"), said(0, 1, "::"), said(65536, 1, "::"),
		{Address: []byte{1, 2}, Port: 1}, nil,
	}})
	if more {
		t.Error("more of a short list")
	}
	addrs := func(texts ...string) (list []netip.Addr) {
		for _, text := range texts {
			list = append(list, netip.MustParseAddr(text))
		}
		return list
	}
	want := []Listener{
		{53, addrs("0.0.0.0"), 9, "p", "p -x"}, {53, addrs("127.0.0.53"), 8, "p", "p -x"},
		{80, addrs("127.0.0.1"), 1, "p", "p -x"}, {3000, addrs("0.0.0.0", "::"), 7, "p", "p -x"},
	}
	if !reflect.DeepEqual(list, want) {
		t.Errorf("got  %v\nwant %v", list, want)
	}
}

func TestTarget(t *testing.T) {
	for addr, want := range map[string]Target{
		"0.0.0.0":       {Port: 1, Stack: true},
		"192.168.127.2": {Port: 1, Stack: true},
		"::":            {Port: 1, Stack: true, Door: netip.IPv6Loopback()},
		"127.0.0.1":     {Port: 1, Door: netip.MustParseAddr("127.0.0.1")},
		"::1":           {Port: 1, Door: netip.IPv6Loopback()},
		"172.17.0.1":    {Port: 1, Door: netip.MustParseAddr("172.17.0.1")},
	} {
		if got := (Listener{Port: 1, Addrs: []netip.Addr{netip.MustParseAddr(addr)}}).Target(); got != want {
			t.Errorf("%s: %+v, want %+v", addr, got, want)
		}
	}
}

// FuzzDecode: whatever a guest says, what comes of it is small, whole and can be
// told on.
func FuzzDecode(f *testing.F) {
	for _, m := range []*agentv1.ListenersResponse{
		{Listeners: []*agentv1.Listener{said(3000, 7, "::"), said(53, 1, "127.0.0.53")}, More: true},
		{Listeners: []*agentv1.Listener{{Process: strings.Repeat("ü", 100), Command: "\x1b[2J", Port: 9, Address: make([]byte, 4), Pid: -1}}},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := new(agentv1.ListenersResponse)
		if proto.Unmarshal(data, m) != nil {
			return
		}
		list, _ := Decode(m)
		if len(list) > maxListeners {
			t.Fatalf("%d listeners", len(list))
		}
		last := uint16(1)
		for _, l := range list {
			if l.Port < last || l.PID < 0 || len(l.Addrs) < 1 || len(l.Addrs) > maxAddrs || len(l.Process) > maxName ||
				len(l.Command) > maxCommand || !utf8.ValidString(l.Process+l.Command) {
				t.Fatalf("bad listener %+v", l)
			}
			last = l.Port
			if to := l.Target(); !to.Stack && !to.Door.IsValid() {
				t.Fatalf("no way to %+v", l)
			}
		}
	})
}
