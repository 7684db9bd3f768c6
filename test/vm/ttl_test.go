package vm

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// expires is when a VM says that it is deleted; zero: never.
func (h *home) expires(ref string) time.Time {
	h.t.Helper()
	var v struct{ Created, Expires string }
	must(h.t, json.Unmarshal([]byte(h.must("vm", "show", "--json", ref)), &v))
	if v.Expires == "" {
		return time.Time{}
	}
	at, err := time.Parse(time.RFC3339Nano, v.Expires)
	must(h.t, err)
	return at
}

// TestTTL: a VM is deleted when its time is over, while the daemon runs and, if it did
// not then, at its next start.
func TestTTL(t *testing.T) {
	h := newHome(t)
	h.must("vm", "create", "--name", "one", "--ttl", "1h")
	if left := time.Until(h.expires("one")); left < 50*time.Minute || left > time.Hour {
		t.Errorf("it is deleted in %s", left)
	}
	created := h.expires("one").Add(-time.Hour)
	if r := h.run("vm", "set", "--ttl", "1ms", "one"); r.code != 2 || !strings.Contains(r.stderr, "--ttl counts from then") {
		t.Errorf("a time that has passed: exit %d, %s", r.code, r.stderr)
	}
	h.must("vm", "set", "--ttl", "none", "one")
	if !h.expires("one").IsZero() {
		t.Error("--ttl none is not shown")
	}
	in := func(d time.Duration) string { return (time.Since(created) + d).Round(time.Millisecond).String() }
	h.must("vm", "set", "--ttl", in(4*time.Second), "one")
	h.must("vm", "exec", "one", "--", "true")
	eventually(t, "the running VM is deleted", func() bool { return h.must("vm", "list", "-aq") == "" })

	h.must("vm", "create", "--name", "two", "--ttl", "1h")
	created = h.expires("two").Add(-time.Hour)
	h.must("vm", "set", "--ttl", in(5*time.Second), "two")
	at := h.expires("two")
	h.must("daemon", "stop")
	<-time.After(time.Until(at))
	if len(h.processes()) == 0 {
		t.Error("the VM did not run on without a daemon")
	}
	h.run("vm", "list", "-aq") // starts the next daemon
	eventually(t, "the VM is deleted by the next daemon", func() bool { return h.must("vm", "list", "-aq") == "" })
}
