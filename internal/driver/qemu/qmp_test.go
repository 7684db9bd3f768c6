package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "x"}, "capabilities": ["oob"]}}` + "\n"

// monitor is the far end of a QMP connection: it answers each command with
// what answer makes of it.
func monitor(t *testing.T, answer func(command string, id uint64) string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer theirs.Close()
		if _, err := io.WriteString(theirs, greeting); err != nil {
			return
		}
		for lines := bufio.NewScanner(theirs); lines.Scan(); {
			var command struct {
				Execute string
				ID      uint64
			}
			if err := json.Unmarshal(lines.Bytes(), &command); err != nil {
				t.Errorf("%s: %v", lines.Bytes(), err)
			}
			reply := fmt.Sprintf(`{"return": {}, "id": %d}`, command.ID)
			if command.Execute != "qmp_capabilities" {
				reply = answer(command.Execute, command.ID)
			}
			if _, err := io.WriteString(theirs, reply+"\n"); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { ours.Close(); <-done })
	return ours
}

func open(t *testing.T, conn net.Conn, onEvent func(string, json.RawMessage)) *qmp {
	t.Helper()
	q, err := newQMP(t.Context(), conn, onEvent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.close() })
	return q
}

func ignore(string, json.RawMessage) {}

func TestQMPCommand(t *testing.T) {
	q := open(t, monitor(t, func(command string, id uint64) string {
		if command == "forbidden" {
			return fmt.Sprintf(`{"error": {"class": "GenericError", "desc": "no\u001b[2J"}, "id": %d}`, id)
		}
		// An event, a reply that nobody asked for, and the reply.
		return fmt.Sprintf(`{"event": "RESUME"}%[2]s{"return": {"status": "old"}, "id": %[3]d}%[2]s{"return": {"status": "new"}, "id": %[1]d}`,
			id, "\n", id-1)
	}), ignore)
	for range 3 {
		var result struct{ Status string }
		if err := q.do(t.Context(), "query-status", &result); err != nil || result.Status != "new" {
			t.Fatalf("%+v, %v", result, err)
		}
	}
	err := q.do(t.Context(), "forbidden", nil)
	var refusal *qmpError
	if !errors.As(err, &refusal) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%q", err)
	}
}

func TestQMPEvents(t *testing.T) {
	var got []string
	q := open(t, monitor(t, func(_ string, id uint64) string {
		return fmt.Sprintf(`{"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}`+"\n"+`{"return": {}, "id": %d}`, id)
	}), func(name string, data json.RawMessage) { got = append(got, name+string(data)) })
	if err := q.do(t.Context(), "cont", nil); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0] != `SHUTDOWN{"reason": "guest-shutdown"}` {
		t.Error(got)
	}
}

// A monitor that answers late, wrongly, too much, or not at all.
func TestQMPHostile(t *testing.T) {
	for name, answer := range map[string]string{
		"too long":   `{"return": "` + strings.Repeat("x", maxLine) + `"}`,
		"not JSON":   "[[[",
		"wrong type": `{"id": "one"}`,
	} {
		q := open(t, monitor(t, func(string, uint64) string { return answer }), ignore)
		if err := q.do(t.Context(), "cont", nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if err := q.do(t.Context(), "cont", nil); err == nil {
			t.Errorf("%s: no error afterwards", name)
		}
	}
	q := open(t, monitor(t, func(string, uint64) string { return `{"event": "NOTHING"}` }), ignore)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.do(ctx, "cont", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("no reply: %v", err)
	}
}

func TestQMPNoGreeting(t *testing.T) {
	for _, first := range []string{`{"return": {}}` + "\n", "", "\n"} {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); io.WriteString(theirs, first); theirs.Close() }()
		if _, err := newQMP(t.Context(), ours, ignore); err == nil {
			t.Errorf("%q: no error", first)
		}
		<-done
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newQMP(ctx, ours, ignore); !errors.Is(err, context.Canceled) {
		t.Errorf("a silent monitor: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": 1}` + "\n" + `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}}` + "\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}, "id": 18446744073709551615}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), maxLine)
		i := &instance{}
		for {
			m, err := readMessage(r)
			if err != nil {
				return
			}
			if m.Error != nil && strings.ContainsAny(m.Error.Error(), "\x1b\n\r") {
				t.Errorf("control characters in %q", m.Error)
			}
			if m.Event != "" {
				i.log = discard()
				i.event(m.Event, m.Data)
			}
		}
	})
}
