package vm

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// traced is one span of a trace, in microseconds.
type traced struct {
	Name  string  `json:"name"`
	Phase string  `json:"ph"`
	Start float64 `json:"ts"`
	Dur   float64 `json:"dur"`
	PID   int     `json:"pid"`
	Args  struct {
		Name string `json:"name"`
	} `json:"args"`
}

// readTrace returns the first span of each process and name.
func readTrace(t *testing.T, path string) map[string]traced {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	var events []traced
	must(t, json.Unmarshal(data, &events))
	names, first := map[int]string{}, map[string]traced{}
	for _, e := range events {
		if e.Name == "process_name" {
			names[e.PID] = e.Args.Name
		}
	}
	for _, e := range events {
		key := names[e.PID] + ": " + e.Name
		if old, known := first[key]; e.Phase == "X" && (!known || e.Start < old.Start) {
			first[key] = e
		}
	}
	return first
}

// TestTrace: one run of a command is seen in all five processes, in an order that
// can be.
func TestTrace(t *testing.T) {
	h := newHome(t)
	path := filepath.Join(h.dir, "trace.json")
	if r := h.run("--trace", path, "vm", "run", "--rm", "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Fatalf("exit %d\n%s", r.code, r.stderr)
	}
	spans := readTrace(t, path)
	last := ""
	for _, name := range []string{
		"banger: process start, flags", "banger: call CreateVM", "bangerd: CreateVM", "bangerd: store: transaction",
		"bangerd: supervisor: fork and exec", "banger-vm: network stack", "banger-vm: confine: fork and exec",
		"qemu: until its monitor answers", "qemu: cont", "banger-agent: link reset, Boot applied",
		"banger: exec: Start until Started", "banger-agent: exec: start the process", "banger-agent: exec: the process runs",
		"banger: call DeleteVM",
	} {
		now, ok := spans[name]
		switch before := spans[last]; {
		case !ok:
			t.Errorf("there is no span %q", name)
			continue
		case now.Start < before.Start || now.Dur < 0:
			t.Errorf("%q began at %.0f µs, before %q at %.0f µs", name, now.Start, last, before.Start)
		}
		last = name
	}
	outer, inner := spans["banger: exec: Start until Started"], spans["banger-agent: exec: start the process"]
	if inner.Start < outer.Start || inner.Start+inner.Dur > outer.Start+outer.Dur {
		t.Errorf("the agent started the process at %.0f for %.0f µs, not while it was asked to, at %.0f for %.0f µs",
			inner.Start, inner.Dur, outer.Start, outer.Dur)
	}
}
