package trace

import (
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestWithoutARecorderNothingIsDone(t *testing.T) {
	ctx := t.Context()
	if With(ctx, nil) != ctx {
		t.Error("a nil recorder makes a new context")
	}
	var none *Recorder
	none.Add(Span{})
	if spans := none.Spans(); spans != nil {
		t.Errorf("it kept %v", spans)
	}
	if n := testing.AllocsPerRun(100, func() { Begin(ctx, "x").End() }); n != 0 {
		t.Errorf("Begin allocates %v times", n)
	}
}

func TestRecorder(t *testing.T) {
	r := NewRecorder("me", 3)
	ctx := With(context.Background(), r)
	before := Now()
	for _, name := range []string{"a", "b", "c", "d"} {
		Begin(ctx, name).End()
	}
	r.BeginOf("qemu", 7, "e").End()
	spans := r.Spans()
	names := map[string]Span{}
	for _, s := range spans {
		names[s.Name] = s
	}
	if len(spans) != 3 || names["e"].PID != 7 || names["d"].Process != "me" || names["a"].Name != "" {
		t.Errorf("it kept %v, not the latest three", spans)
	}
	if s := names["d"]; s.Start < before || s.End < s.Start || s.End > Now() {
		t.Errorf("a span that cannot be: %v", s)
	}
	if got := r.Close(); !reflect.DeepEqual(got, spans) {
		t.Errorf("Close: %v, not %v", got, spans)
	}
	Begin(ctx, "late").End()
	if got := r.Spans(); len(got) != 0 {
		t.Errorf("it kept %v after its end", got)
	}
}

// TestForeign: two clocks, one of which is 1 s ahead and tells the truth.
func TestForeign(t *testing.T) {
	const ahead = int64(time.Second)
	f := MapForeign(100, 200, ahead+120, ahead+180)
	for theirs, ours := range map[int64]int64{ahead + 120: 120, ahead + 180: 180, ahead + 300: 300} {
		if got := f.At(theirs, 1000); got != ours {
			t.Errorf("%d is %d here, not %d", theirs, got, ours)
		}
	}
}

// TestForeignLies: whatever a guest says, it cannot have happened before it was
// asked or after it has answered.
func TestForeignLies(t *testing.T) {
	lies := []int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, 1 << 40, math.MaxInt64 - 1, math.MaxInt64}
	for _, a := range lies {
		for _, b := range lies {
			f := MapForeign(1000, 2000, a, b)
			for _, c := range lies {
				s := f.Span(Span{Start: c, End: a}, 3000)
				if s.Start < 1000 || s.End < s.Start || s.End > 3000 {
					t.Fatalf("arrived %d, answered %d, then %d: %v", a, b, c, s)
				}
			}
		}
	}
}

func TestProcessStart(t *testing.T) {
	start, now := ProcessStart(), Now()
	if start <= 0 || start > now {
		t.Errorf("this process was started at %d, and it is %d", start, now)
	}
	if again := ProcessStart(); max(start-again, again-start) > int64(2*tick) {
		t.Errorf("it was started at %d, and at %d", start, again)
	}
	for _, bad := range []string{"", "1 (x) S 1", ")", "1 (a) b) " + strings.Repeat("x ", 30)} {
		if n, err := startTicks(bad); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
}

func TestWire(t *testing.T) {
	want := []Span{{"a", 1, "x", 5, 9}, {"b", 0, "y\n\"", 0, 0}}
	data, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(data); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	many, err := Encode(make([]Span, MaxSpans+10))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(many); err != nil || len(got) != MaxSpans {
		t.Errorf("%d spans, %v", len(got), err)
	}
	for name, bad := range map[string]string{
		"no JSON": "x", "backwards": `[{"s":2,"e":1}]`, "before the clock": `[{"s":-1,"e":1}]`, "pid": `[{"i":-1}]`,
		"a long name": `[{"n":"` + strings.Repeat("x", maxName+1) + `"}]`, "long": `[` + strings.Repeat(" ", maxWire) + `]`,
		"many": "[" + strings.Repeat("{},", MaxSpans) + "{}]",
	} {
		if got, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s: %d spans", name, len(got))
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"p":"banger","i":1,"n":"x","s":1,"e":2}]`))
	f.Add([]byte(`[{"s":1e300}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		spans, err := Decode(data)
		if err != nil {
			return
		}
		if _, err := File(spans, 0); err != nil || len(spans) > MaxSpans {
			t.Errorf("%d spans, %v", len(spans), err)
		}
	})
}

func TestFile(t *testing.T) {
	ms := func(n int64) int64 { return n * int64(time.Millisecond) }
	data, err := File([]Span{
		{"banger", 10, "inner", ms(102), ms(104)},
		{"banger", 10, "outer", ms(100), ms(110)},
		{"banger", 10, "outer", ms(100), ms(110)}, // it came home twice
		{"banger", 10, "across", ms(105), ms(112)},
		{"banger", 10, "after", ms(110), ms(111)},
		{"agent", 0, "x", ms(90), ms(101)}, // begun before
		{"agent", 0, "old", ms(80), ms(90)},
	}, ms(100))
	if err != nil {
		t.Fatal(err)
	}
	var events []event
	if err := json.Unmarshal(data, &events); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	got := map[string][]float64{}
	for _, e := range events {
		if e.Phase == "X" {
			got[e.Name] = []float64{e.TS, e.Dur, float64(e.TID - e.PID)}
		}
	}
	want := map[string][]float64{
		"outer": {0, 10000, 0}, "inner": {2000, 2000, 0}, "across": {5000, 7000, 1}, "after": {10000, 1000, 0}, "x": {0, 1000, 0},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if n := strings.Count(string(data), `"process_name"`); n != 2 {
		t.Errorf("%d processes have a name, not 2:\n%s", n, data)
	}
}
