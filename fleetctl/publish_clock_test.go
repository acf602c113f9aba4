package fleetctl

import (
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/repo"
)

func TestPublishClock(t *testing.T) {
	w := newWorld(t)
	w.published("galena")
	for _, years := range []int{-10, 10} {
		now := w.clock
		w.clock = w.clock.AddDate(years, 0, 0)
		code, _, errs := w.run("publish", "galena")
		if code == exitOK {
			t.Errorf("published with a clock %d years off", years)
		}
		if !strings.Contains(errs, "hint: ") {
			t.Errorf("no hint in %s", errs)
		}
		w.clock = now
	}
}

// TestPublishClockAhead shows that under a clock that the coordinator would
// refuse nothing is signed, and that it works once the clock is set.
func TestPublishClockAhead(t *testing.T) {
	w := newWorld(t)
	w.published("galena")
	before, right := len(w.releases()), w.clock
	for _, ahead := range []time.Duration{3 * time.Hour, 40 * time.Minute} {
		// The coordinator's clock is the test's, less what that is ahead.
		w.clock, w.server.Skew = right.Add(ahead), -ahead
		for _, args := range [][]string{{"publish", "galena"}, {"publish", "--dry-run"}, {"retry", "galena"}} {
			w.fails(exitError, "clock is ahead of the coordinator's", args...)
		}
		if n := len(w.releases()); n != before || len(w.server.Staged) != 1 || len(w.server.Loosenings) != 0 {
			t.Errorf("%v ahead: %d releases, %d staged, %d retries", ahead, n, len(w.server.Staged), len(w.server.Loosenings))
		}
	}
	w.clock, w.server.Skew = right.Add(10*time.Minute), -10*time.Minute
	if res := w.published("galena"); res.Generations[0].Number != "1.2" {
		t.Errorf("number %s", res.Generations[0].Number)
	}
}

// TestPublishAfterClockAhead shows that a release that was signed under such a
// clock, and refused, blocks nothing once the clock is set, while its numbers
// stay used.
func TestPublishAfterClockAhead(t *testing.T) {
	w := newWorld(t)
	w.published("galena")
	right := w.clock
	w.server.Timeless = true // nothing warns
	w.clock, w.server.Skew = right.Add(72*time.Hour), -72*time.Hour
	w.fails(exitRefused, "still to come", "publish", "galena")
	list := w.releases()
	if n := len(list); n != 2 || list[1].State != repo.ReleasePrepared || list[1].Generations[0].Number.String() != "1.2" {
		t.Fatalf("%d releases", n)
	}
	for _, timeless := range []bool{true, false} {
		w.clock, w.server.Skew, w.server.Timeless = right, 0, timeless
		want := map[bool]string{true: "1.3", false: "1.4"}[timeless]
		if res := w.published("galena"); res.Generations[0].Number != want {
			t.Errorf("number %s, want %s", res.Generations[0].Number, want)
		}
	}
	w.ok("retry", "galena")
}

// TestPublishClockBehind shows that a clock behind what hosts have seen is an
// error, wherever that is known from.
func TestPublishClockBehind(t *testing.T) {
	w := newWorld(t)
	right := w.clock
	w.clock = right.Add(2 * time.Hour)
	w.published("galena")
	w.clock = right
	w.fails(exitError, "clock is behind", "publish", "galena")
	// Another checkout, which lacks the release.
	rel := w.releases()[0]
	rel.State = repo.ReleaseAbandoned
	if err := repo.At(w.dir).WriteRelease(rel); err != nil {
		t.Fatal(err)
	}
	w.fails(exitError, "clock is behind", "publish", "galena")
	w.clock = right.Add(2 * time.Hour)
	w.published("galena")
}
