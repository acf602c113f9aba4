package inventory

import (
	"slices"
	"strings"
)

// suggest is the hint for a name that is none of known.
func suggest(name string, known []string) string {
	best, distance := "", 3
	if n := len(name); n < 6 {
		distance = 1 + n/3
	}
	if len(name) <= 64 {
		for _, k := range known {
			if d := editDistance(strings.ToLower(name), strings.ToLower(k), distance); d <= distance && (best == "" || d < distance) {
				best, distance = k, d
			}
		}
	}
	if best != "" {
		return "did you mean " + quote(best) + "?"
	}
	if len(known) == 0 {
		return "there are none"
	}
	const most = 12
	known = slices.Sorted(slices.Values(known))
	if len(known) > most {
		return "known are " + strings.Join(known[:most], ", ") + ", …"
	}
	return "known are " + strings.Join(known, ", ")
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that make a into b; more than limit is limit+1.
func editDistance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit+1)
}
