//go:build linux

package main

import (
	"slices"
	"time"
)

// quantile of sorted values, by the nearest rank.
func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// median of values in any order; of an even number the mean of the inner two.
func median[T time.Duration | float64](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// ratio compares pairs.
type ratio struct{ median, least, most float64 }

// ratios compares ours with bare, pair by pair.
func ratios(bare, ours []run, value func(run) float64) ratio {
	var all []float64
	for i := range min(len(bare), len(ours)) {
		all = append(all, value(ours[i])/value(bare[i]))
	}
	return ratio{median: median(all), least: slices.Min(all), most: slices.Max(all)}
}

// medianOf a figure over runs.
func medianOf(runs []run, value func(run) float64) float64 {
	var all []float64
	for _, r := range runs {
		all = append(all, value(r))
	}
	return median(all)
}
