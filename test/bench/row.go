package main

import (
	"context"
	"slices"
	"strings"
)

// row is what was measured of one thing.
type row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Limit, if not 0, is the worst median that is good enough.
	Limit float64 `json:"limit,omitempty"`
	// HigherIsBetter: a speed, not a time or a size.
	HigherIsBetter bool      `json:"higher_is_better,omitempty"`
	Samples        []float64 `json:"samples"`
	// Yardsticks are what it is compared with, in the same run.
	Yardsticks []yardstick `json:"yardsticks,omitempty"`
	// Absent says why there is no sample.
	Absent string `json:"absent,omitempty"`
}

// yardstick is what a row is compared with. It has as many samples as the row,
// each taken in the same turn, or none.
type yardstick struct {
	Name string `json:"name"`
	// Limit, if not 0, is the worst ratio of the row to this that is good enough.
	Limit   float64   `json:"limit,omitempty"`
	Samples []float64 `json:"samples"`
	// Absent says why it could not be run on this host.
	Absent string `json:"absent,omitempty"`
}

// verdicts on a row.
const (
	holds  = "ok"
	misses = "MISSED"
	// untold: there is a limit, and nothing to hold against it.
	untold = "not measured"
)

// worse reports whether got does not keep a limit.
func (r row) worse(got, limit float64) bool {
	if r.HigherIsBetter {
		return got < limit
	}
	return got > limit
}

// verdict says whether the row's median keeps its own limit; nothing if it has
// none.
func (r row) verdict() string {
	switch {
	case len(r.Samples) == 0:
		return untold
	case r.Limit == 0:
		return ""
	case r.worse(quantile(r.Samples, 0.5), r.Limit):
		return misses
	}
	return holds
}

// verdictAt says whether the ratio to y keeps its limit; nothing if it has none.
func (r row) verdictAt(y yardstick) string {
	switch {
	case y.Limit == 0:
		return ""
	case len(y.Samples) == 0 || len(r.Samples) == 0:
		return untold
	case r.worse(r.ratio(y), y.Limit):
		return misses
	}
	return holds
}

// ratio is the median of the ratios of each sample to the yardstick's of the
// same turn, so that a machine that drifts does not matter. 0 without samples.
func (r row) ratio(y yardstick) float64 {
	ratios := make([]float64, min(len(r.Samples), len(y.Samples)))
	for i := range ratios {
		ratios[i] = r.Samples[i] / y.Samples[i]
	}
	return quantile(ratios, 0.5)
}

// p90 is as good or better in nine samples of ten.
func (r row) p90() float64 {
	if r.HigherIsBetter {
		return quantile(r.Samples, 0.1)
	}
	return quantile(r.Samples, 0.9)
}

// quantile of samples, between the nearest two where it lies between them.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// probe takes one sample.
type probe func(context.Context) (float64, error)

// sample takes n samples of each probe, in turns. Every other turn goes
// backwards: what a probe leaves behind (dirty pages, a warm cache) meets each of
// the others as often.
func sample(ctx context.Context, n int, probes ...probe) ([][]float64, error) {
	all := make([][]float64, len(probes))
	for turn := range n {
		for at := range probes {
			if turn%2 == 1 {
				at = len(probes) - 1 - at
			}
			value, err := probes[at](ctx)
			if err != nil {
				return nil, err
			}
			all[at] = append(all[at], value)
		}
	}
	return all, nil
}

// yard is a yardstick that is yet to be measured.
type yard struct {
	name  string
	limit float64
	probe probe
	// absent, if not nil, says why it cannot be run here.
	absent error
}

// measured takes n samples of ours and of each yardstick, in turns, into r. Each
// is run once before, uncounted; a yardstick that fails then is absent, with its
// own words.
func (r row) measured(ctx context.Context, n int, ours probe, yards ...yard) (row, error) {
	probes, present := []probe{ours}, []int(nil)
	for i, y := range yards {
		if y.absent == nil {
			_, y.absent = y.probe(ctx)
		}
		if err := ctx.Err(); err != nil {
			return r, err
		}
		r.Yardsticks = append(r.Yardsticks, yardstick{Name: y.name, Limit: y.limit})
		if y.absent != nil {
			r.Yardsticks[i].Absent = oneLine(y.absent)
			continue
		}
		probes, present = append(probes, y.probe), append(present, i)
	}
	if _, err := ours(ctx); err != nil {
		return r, err
	}
	samples, err := sample(ctx, n, probes...)
	if err != nil {
		return r, err
	}
	r.Samples = samples[0]
	for at, i := range present {
		r.Yardsticks[i].Samples = samples[at+1]
	}
	return r, nil
}

// only is the one row of a job, if it was measured.
func only(r row, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	return []row{r}, nil
}

// maxReason bounds a reason in the report, in bytes.
const maxReason = 200

// oneLine is an error for a cell of a table.
func oneLine(err error) string {
	text := strings.Join(strings.Fields(strings.ReplaceAll(err.Error(), "|", "/")), " ")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
