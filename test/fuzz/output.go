package main

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// result is what go test said of a target.
type result struct {
	elapsed time.Duration
	// execs are the inputs that were tried, interesting those of them that
	// reached code that no other had, and corpus all of these there are now.
	execs, interesting, corpus int64
	// finding says that there is an input that fails, and input where go test put
	// it, from the package's directory; it is empty for a seed, which is in the test.
	finding bool
	input   string
	// outOfTime says that go test failed because the time was over, which it means
	// to tell apart: before Go 1.27 it doesn't always (golang.org/issue/75804).
	outOfTime bool
}

var (
	progress = regexp.MustCompile(`^fuzz: elapsed: (\S+), execs: (\d+) \(\d+/sec\), new interesting: (\d+) \(total: (\d+)\)$`)
	written  = regexp.MustCompile(`^\s*Failing input written to (\S+)$`)
	bySeed   = regexp.MustCompile(`^\s*failure while testing seed corpus entry: \S+$`)
	deadline = regexp.MustCompile(`^\s+context deadline exceeded$`)
	failed   = regexp.MustCompile(`^\s*--- FAIL: `)
)

// parseOutput reads what go test -fuzz printed.
func parseOutput(text string) result {
	var r result
	failures, deadlines := 0, 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if m := progress.FindStringSubmatch(line); m != nil {
			// What matched is digits; what doesn't fit stays as it was before.
			elapsed, errT := time.ParseDuration(m[1])
			execs, errE := strconv.ParseInt(m[2], 10, 64)
			interesting, errI := strconv.ParseInt(m[3], 10, 64)
			corpus, errC := strconv.ParseInt(m[4], 10, 64)
			if errT == nil && errE == nil && errI == nil && errC == nil {
				r.elapsed, r.execs, r.interesting, r.corpus = elapsed, execs, interesting, corpus
			}
		}
		if m := written.FindStringSubmatch(line); m != nil {
			r.finding, r.input = true, m[1]
		}
		if bySeed.MatchString(line) {
			r.finding = true
		}
		if failed.MatchString(line) {
			failures++
		}
		if deadline.MatchString(line) {
			deadlines++
		}
	}
	r.outOfTime = !r.finding && failures == 1 && deadlines == 1
	return r
}
