package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
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
	drift := func(limit float64) []yardstick {
		return []yardstick{{Name: "other", Limit: limit, Samples: []float64{10, 20, 40}}}
	}
	for _, c := range []struct {
		name         string
		row          row
		want, wantAt string
	}{
		{"no limit", row{Samples: []float64{1}}, "", ""},
		{"at the limit", row{Samples: []float64{40}, Limit: 40}, holds, ""},
		{"over it", row{Samples: []float64{41}, Limit: 40}, misses, ""},
		{"nothing", row{Limit: 40, Absent: "no spares"}, untold, ""},
		{"ratio of each turn", row{Samples: []float64{14, 28, 80}, Yardsticks: drift(1.4)}, "", holds},
		{"too slow", row{Samples: []float64{15, 30, 60}, Yardsticks: drift(1.4)}, "", misses},
		{"fast enough", row{Samples: []float64{7, 14, 28}, Yardsticks: drift(0.7), HigherIsBetter: true}, "", holds},
		{"not fast enough", row{Samples: []float64{6, 12, 24}, Yardsticks: drift(0.7), HigherIsBetter: true}, "", misses},
		{"both", row{Samples: []float64{14, 28, 80}, Limit: 27, Yardsticks: drift(1.4)}, misses, holds},
		{"no yardstick here", row{Samples: []float64{1}, Yardsticks: []yardstick{{Name: "other", Limit: 1, Absent: "not installed"}}}, "", untold},
	} {
		at := ""
		if len(c.row.Yardsticks) > 0 {
			at = c.row.verdictAt(c.row.Yardsticks[0])
		}
		if got := c.row.verdict(); got != c.want || at != c.wantAt {
			t.Errorf("%s: %q and %q, want %q and %q", c.name, got, at, c.want, c.wantAt)
		}
	}
}

func TestTurns(t *testing.T) {
	var order []string
	turn := func(name string, value float64) probe {
		return func(context.Context) (float64, error) { order = append(order, name); return value, nil }
	}
	got, err := sample(t.Context(), 2, turn("yardstick", 1), turn("ours", 2))
	if err != nil || !slices.Equal(order, []string{"yardstick", "ours", "ours", "yardstick"}) {
		t.Errorf("%v, %v", order, err)
	}
	if !slices.Equal(got[0], []float64{1, 1}) || !slices.Equal(got[1], []float64{2, 2}) {
		t.Errorf("%v", got)
	}
	broken := errors.New("broken")
	fails := func(context.Context) (float64, error) { return 0, broken }
	if _, err := sample(t.Context(), 2, fails); err != broken {
		t.Errorf("%v", err)
	}
	r, err := row{}.measured(t.Context(), 3, turn("ours", 2), yard{name: "gone", absent: errors.New("not\nhere | at all")},
		yard{name: "fails", probe: fails}, yard{name: "works", limit: 3, probe: turn("yardstick", 1)})
	if err != nil || len(r.Samples) != 3 || len(r.Yardsticks) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if y := r.Yardsticks; y[0].Absent != "not here / at all" || y[1].Absent != "broken" || len(y[1].Samples) != 0 ||
		len(y[2].Samples) != 3 || y[2].Limit != 3 {
		t.Errorf("%+v", y)
	}
	if _, err := (row{}).measured(t.Context(), 1, fails); err != broken {
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
	if got := wanted(); slices.Contains(got, "image") || slices.Contains(got, "scale") || !slices.Contains(got, "idle") {
		t.Errorf("by itself: %v", got)
	}
	if got := wanted("-image", "-scale"); !slices.Contains(got, "image") || !slices.Contains(got, "scale") {
		t.Errorf("with -image and -scale: %v", got)
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

func testReport() *report {
	return &report{Banger: "banger test", Host: host{CPU: "a <CPU> & more", QEMU: "QEMU 1"}, Rows: []row{
		{Name: "quick", Unit: "ms", Limit: 15, Samples: []float64{3, 4, 5}},
		{Name: "boot", Unit: "ms", Limit: 12000, Samples: []float64{150}, Yardsticks: []yardstick{
			{Name: "bare", Limit: 1.4, Samples: []float64{100}},
			{Name: "gone", Limit: 2, Absent: "not <installed>"},
			{Name: "free", Samples: []float64{300}}}},
		{Name: "pipe", Unit: "MiB/s", HigherIsBetter: true, Samples: []float64{10, 20}},
		{Name: "spare", Unit: "ms", Limit: 60, Absent: "no spares"},
	}}
}

func TestReportIsKept(t *testing.T) {
	r, dir := testReport(), filepath.Join(t.TempDir(), "docs")
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "latest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(data, &back); err != nil || len(back.Rows) != 4 || back.Rows[1].Yardsticks[0].Samples[0] != 100 {
		t.Errorf("%v\n%s", err, data)
	}
	page, err := os.ReadFile(filepath.Join(dir, "latest.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"| quick | 4 ms | 4.8 ms | 3 | ≤ 15 ms |  |  |  |  | ok |",
		"| boot | 150 ms | 150 ms | 1 | ≤ 12000 ms | bare | 100 ms | 1.50 × | ≤ 1.40 × | MISSED |",
		"|  |  |  |  |  | gone | could not run here: not <installed> |  |  | not measured |",
		"|  |  |  |  |  | free | 300 ms | 0.50 × |  |  |",
		"| pipe | 15 MiB/s | 11 MiB/s | 2 |  |  |  |  |  |  |",
		"| spare |  |  |  |  | no spares |  |  |  | not measured |",
	} {
		if !bytes.Contains(page, []byte(line+"\n")) {
			t.Errorf("no line %q in\n%s", line, page)
		}
	}
	var table strings.Builder
	if err := r.print(&table); err != nil || strings.Count(table.String(), "\n") != 7 {
		t.Errorf("%v\n%s", err, table.String())
	}
}

// TestChart: it is XML, every job and yardstick is named, and nothing lies
// outside.
func TestChart(t *testing.T) {
	var texts strings.Builder
	bars := 0
	for d := xml.NewDecoder(bytes.NewReader(testReport().svg())); ; {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			texts.Write(token)
		case xml.StartElement:
			if token.Name.Local == "rect" && attribute(t, token, "class") != "ground" {
				bars++
				width, err := strconv.ParseFloat(attribute(t, token, "width"), 64)
				if err != nil || width < 1 || width > barRoom {
					t.Errorf("a bar is %v wide: %v", width, err)
				}
			}
		}
	}
	if bars != 5 {
		t.Errorf("%d bars, want those of 3 jobs and 2 yardsticks", bars)
	}
	for _, want := range []string{"a <CPU> & more", "quick", "4 ms (limit 15 ms)", "bare: 100 ms; ratio 1.50 (limit 1.40): missed",
		"gone: could not run here: not <installed>", "not measured: no spares"} {
		if !strings.Contains(texts.String(), want) {
			t.Errorf("no %q in\n%s", want, texts.String())
		}
	}
}

func attribute(t *testing.T, e xml.StartElement, name string) string {
	t.Helper()
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	t.Errorf("<%s> has no %s", e.Name.Local, name)
	return ""
}

func TestCommandLine(t *testing.T) {
	const own = `{"node-name":"o","driver":"raw","read-only":false,"file":{"driver":"file","filename":"/vms/a b/overlay.ext4"}}`
	const base = `{"node-name":"b","driver":"raw","read-only":true,"file":{"driver":"file","filename":"/images/base.ext4"}}`
	args := []string{"qemu", "-name", "vm", "-S", "-initrd", "old", "-sandbox", "on", "-blockdev", base, "-blockdev", own,
		"-chardev", "socket,id=qmp,fd=4,server=on", "-chardev", "socket,id=console,fd=8", "-chardev", "socket,id=ctl,fd=5",
		"-chardev", "socket,id=data,fd=6", "-netdev", "stream,id=net,addr.type=fd,addr.str=7", "-device", "isa-serial,chardev=console"}
	c, err := newCommandLine(args)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"qemu", "-initrd", "new", "-blockdev", base, "-blockdev", strings.Replace(own, "/vms/a b", "/here", 1),
		"-chardev", "socket,id=qmp,fd=3,server=on", "-chardev", "socket,id=console,fd=4", "-chardev", "socket,id=ctl,fd=5",
		"-chardev", "socket,id=data,fd=6", "-netdev", "stream,id=net,addr.type=fd,addr.str=7", "-device", "isa-serial,chardev=console"}
	if got := c.booting("new").argv("/here"); !slices.Equal(got, want) {
		t.Errorf("\n%q\nwant\n%q", got, want)
	}
	if !slices.Equal(c.sockets, []string{"qmp", "console", "ctl", "data", "net"}) || !slices.Equal(c.writable, []string{"overlay.ext4"}) {
		t.Errorf("%q, %q", c.sockets, c.writable)
	}
	if _, err := newCommandLine([]string{"qemu"}); err == nil {
		t.Error("a VMM without sockets is taken")
	}
}

func TestStateIsFound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "devices")
	for text, want := range map[string]string{"{}\nstate": "state", "{}\n": "", "{}": "error"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := "error"
		if f, err := openState(path); err == nil {
			data, _ := io.ReadAll(f)
			f.Close()
			got = string(data)
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestFreezeTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := "time=now level=WARN msg=other\ntime=now level=INFO msg=\"the guest is frozen\" took_ms=321\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := freezeTime(path); err != nil || got != 321 {
		t.Errorf("%v, %v", got, err)
	}
}
