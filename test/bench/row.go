package main

import (
	"context"
	"slices"
)

// row is what was measured of one thing.
type row struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// Limit, if there is one.
	Limit *limit `json:"limit,omitempty"`
	// HigherIsBetter: a speed, not a time or a size.
	HigherIsBetter bool      `json:"higher_is_better,omitempty"`
	Samples        []float64 `json:"samples"`
	// Yardstick has as many samples, each taken just before the one of the row.
	Yardstick *yardstick `json:"yardstick,omitempty"`
}

// yardstick is what a row is compared with.
type yardstick struct {
	Name    string    `json:"name"`
	Samples []float64 `json:"samples"`
}

// limit is the worst that is good enough, for the median.
type limit struct {
	Value float64 `json:"value"`
	// OfRatio: it is for the ratio to the yardstick, not in the row's unit.
	OfRatio bool `json:"of_ratio"`
}

// verdicts on a row.
const (
	holds  = "ok"
	misses = "MISSED"
)

// verdict says whether the row keeps its limit; nothing if it has none.
func (r row) verdict() string {
	if r.Limit == nil {
		return ""
	}
	got := quantile(r.Samples, 0.5)
	if r.Limit.OfRatio {
		got = r.ratio()
	}
	if r.HigherIsBetter && got < r.Limit.Value || !r.HigherIsBetter && got > r.Limit.Value {
		return misses
	}
	return holds
}

// ratio is the median of the ratios of each sample to the yardstick's of the
// same turn, so that a machine that drifts does not matter. 0 without one.
func (r row) ratio() float64 {
	if r.Yardstick == nil {
		return 0
	}
	ratios := make([]float64, len(r.Samples))
	for i, sample := range r.Samples {
		ratios[i] = sample / r.Yardstick.Samples[i]
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

// sample takes n samples of each probe, in turns.
func sample(ctx context.Context, n int, probes ...probe) ([][]float64, error) {
	all := make([][]float64, len(probes))
	for range n {
		for i, p := range probes {
			value, err := p(ctx)
			if err != nil {
				return nil, err
			}
			all[i] = append(all[i], value)
		}
	}
	return all, nil
}
