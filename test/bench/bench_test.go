package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{3}, 0.9, 3},
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{10, 20}, 0.9, 19},
		{[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0.9, 10},
		{[]float64{1, 2, 3}, 1, 3},
	} {
		if got := quantile(c.samples, c.q); got != c.want {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.samples, c.q, got, c.want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	drift := &yardstick{"other", []float64{10, 20, 40}}
	for _, c := range []struct {
		name string
		row  row
		want string
	}{
		{"no limit", row{Samples: []float64{1}}, ""},
		{"at the limit", row{Samples: []float64{40}, Limit: &limit{Value: 40}}, holds},
		{"over it", row{Samples: []float64{41}, Limit: &limit{Value: 40}}, misses},
		{"ratio of each turn", row{Samples: []float64{14, 28, 80}, Yardstick: drift, Limit: &limit{1.4, true}}, holds},
		{"too slow", row{Samples: []float64{15, 30, 60}, Yardstick: drift, Limit: &limit{1.4, true}}, misses},
		{"fast enough", row{Samples: []float64{7, 14, 28}, Yardstick: drift, HigherIsBetter: true, Limit: &limit{0.7, true}}, holds},
		{"not fast enough", row{Samples: []float64{6, 12, 24}, Yardstick: drift, HigherIsBetter: true, Limit: &limit{0.7, true}}, misses},
	} {
		if got := c.row.verdict(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTurns(t *testing.T) {
	var order []string
	turn := func(name string, value float64) probe {
		return func(context.Context) (float64, error) { order = append(order, name); return value, nil }
	}
	got, err := sample(t.Context(), 2, turn("yardstick", 1), turn("ours", 2))
	if err != nil || !slices.Equal(order, []string{"yardstick", "ours", "yardstick", "ours"}) {
		t.Errorf("%v, %v", order, err)
	}
	if !slices.Equal(got[0], []float64{1, 1}) || !slices.Equal(got[1], []float64{2, 2}) {
		t.Errorf("%v", got)
	}
	broken := errors.New("broken")
	if _, err := sample(t.Context(), 2, func(context.Context) (float64, error) { return 0, broken }); err != broken {
		t.Errorf("%v", err)
	}
}

func TestProgressIsRead(t *testing.T) {
	const said = `{"spec":{"name":"x"}}
{"stage":"image","finished":false}
not JSON
{"stage":"boot","finished":true}
{"stage":"image","finished":true}
{"stage":"agent","finished":false}
{"stage":"agent","finished":true}
rest`
	r := strings.NewReader(said)
	if took, err := stageTime(r, "image"); err != nil || took < 0 {
		t.Errorf("%v, %v", took, err)
	}
	if at, err := finished(strings.NewReader(said), "agent"); err != nil || time.Since(at) < 0 {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := finished(strings.NewReader(said), "system"); err == nil {
		t.Error("a stage that never ended has an end")
	}
	if _, err := stageTime(strings.NewReader(said), "system"); err == nil {
		t.Error("a stage that never was has a time")
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-n", "0"}, {"-only", "version,nothing"}, {"argument"}, {"-none"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
	wanted := func(args ...string) (run []string) {
		o, err := parse(args, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs() {
			if o.wanted(j) {
				run = append(run, j.name)
			}
		}
		return run
	}
	if got := wanted(); slices.Contains(got, "image") || !slices.Contains(got, "idle") {
		t.Errorf("by itself: %v", got)
	}
	if got := wanted("-image"); !slices.Contains(got, "image") {
		t.Errorf("with -image: %v", got)
	}
	if got := wanted("-only", "exec,image"); !slices.Equal(got, []string{"exec", "image"}) {
		t.Errorf("only: %v", got)
	}
}

// TestLeastInit: the kernel would run it, and its word is where it says.
func TestLeastInit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "init")
	if err := writeLeastInit(path); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(f.Progs) != 1 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		t.Fatalf("%+v", f.FileHeader)
	}
	segment := f.Progs[0]
	data, err := io.ReadAll(segment.Open())
	if err != nil {
		t.Fatal(err)
	}
	code := data[f.Entry-segment.Vaddr:]
	// lea rsi, [rip+offset] ends 17 bytes from the start.
	if word := code[17+int(code[13]):]; string(word) != leastWord+"\n" {
		t.Errorf("it says %q", word)
	}
}

func TestReportIsKept(t *testing.T) {
	r := &report{Banger: "banger test", Rows: []row{
		{Name: "quick", Unit: "ms", Limit: &limit{Value: 15}, Samples: []float64{3, 4, 5}},
		{Name: "boot", Unit: "ms", Limit: &limit{1.4, true}, Samples: []float64{150}, Yardstick: &yardstick{"bare", []float64{100}}},
		{Name: "pipe", Unit: "MiB/s", HigherIsBetter: true, Samples: []float64{10, 20}},
	}}
	dir := filepath.Join(t.TempDir(), "docs")
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(data, &back); err != nil || len(back.Rows) != 3 || back.Rows[1].Yardstick.Samples[0] != 100 {
		t.Errorf("%v\n%s", err, data)
	}
	page, err := os.ReadFile(filepath.Join(dir, "bench.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| quick | 4 ms | 4.8 ms | 3 | ≤ 15 ms |  |  | ok |",
		"| boot | 150 ms | 150 ms | 1 | ≤ 1.40 × | bare: 100 ms | 1.50 × | MISSED |",
		"| pipe | 15 MiB/s | 11 MiB/s | 2 |  |  |  |  |",
	} {
		if !bytes.Contains(page, []byte(line+"\n")) {
			t.Errorf("no line %q in\n%s", line, page)
		}
	}
	var table strings.Builder
	if err := r.print(&table); err != nil || strings.Count(table.String(), "\n") != 4 {
		t.Errorf("%v\n%s", err, table.String())
	}
}
