package agent

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// Correction bounds how soon what was made of a host by hand is undone.
type Correction struct {
	// After is for how long, awake, it must have been as it is: whoever switches a host is
	// in the midst of it for a while. Default a minute.
	After time.Duration
	// Pause is between two corrections of one generation: a person, or another tool, that
	// wants something else must not be fought every minute. Default an hour.
	Pause time.Duration
}

// stands says, under the worker's lock, whether what a person made of the profile has
// been so for a while.
func (w *worker) stands() bool {
	return w.drifted != "" && awake().Sub(w.driftedSince) >= w.a.config.Correction.After
}

// correctNow looks at once what a person made of the target, and has that count as if it
// had been so for long: another person wants it undone now. It is empty where nothing is
// to be undone, or the policy leaves it.
func (w *worker) correctNow(b *bound, ps journal.ProfileState, target fleet.Ref) (drifted string) {
	newest := b.desired.Newest(w.profile)
	if newest == nil || newest.Generation.Doc.Policy.Drift != fleet.DriftCorrect || !ps.Current.Is(target) {
		return ""
	}
	drifted = w.drift(ps)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.saw(drifted)
	w.driftedSince = time.Time{}
	return drifted
}

// mayCorrect is when what runs may be corrected again at the earliest, and why the newest
// attempt came to nothing.
func (w *worker) mayCorrect(ps journal.ProfileState, now time.Time) (at time.Time, failed fleet.Reason) {
	c := ps.Corrected
	if c == nil || c.Digest != ps.Current.Ref.Digest {
		return time.Time{}, fleet.Reason{}
	}
	if c.Time.After(now) {
		return time.Time{}, c.Failed // The clock was set back since: nobody knows when that was.
	}
	return c.Time.Add(w.a.config.Correction.Pause), c.Failed
}

// correct has a route lead from what a person made of a host to what is on record, and
// back to just that. ok is false where nothing is to be corrected any more.
func (w *worker) correct(ctx context.Context, way *route, ps journal.ProfileState) (ok bool, err error) {
	_, d, err := w.maker(ps.Current)
	if err != nil {
		return false, err
	}
	dr, err := driver.DriftOf(ctx, d, w.profile, ps.Current.Path)
	if err != nil || dr == (driver.Drift{}) {
		return false, err //nolint:wrapcheck // It says what failed.
	}
	way.drift = &dr
	if dr.Runs == "" {
		way.back = ps.Current // A specialisation of it, perhaps.
	}
	return true, nil
}

// madeBy is what a correction undoes, for the intent.
func (r route) madeBy() *journal.ByHand {
	if r.drift == nil {
		return nil
	}
	return &journal.ByHand{Made: r.back, Runs: r.drift.Runs, Boots: r.drift.Boots}
}

// madeStill says whether a host is as the person left it of whom a correction was
// composed. What can't be told is taken to be so.
func (w *worker) madeStill(act *journal.Activation) bool {
	_, d, err := w.maker(act.To)
	if err != nil {
		return true
	}
	dr, err := driver.DriftOf(context.Background(), d, w.profile, act.To.Path)
	return err != nil || dr.Runs == act.Undoes.Runs && dr.Boots == act.Undoes.Boots
}

// undoing makes of the way to what is on record one that undoes a person's changes: what
// runs already is not activated, and the way back leads to what ran and to what booted
// before, which need not be the same.
func (w *worker) undoing(ctx context.Context, r route, do *driver.Activation) error {
	switch {
	case r.drift.Runs == "" && !do.Commit.IsZero():
		do.Activate = driver.Action{}
		return nil
	case r.drift.Runs == "":
		return nil // What makes it boot is its activation.
	}
	way, err := w.between(ctx, r.back, r.to)
	if err != nil {
		return err
	}
	do.Activate, do.Rollback = way.Activate, way.Rollback
	if r.drift.Boots == "" {
		// What boots stays: the person tried something until the next boot.
		there, err := w.between(ctx, r.to, r.back)
		if err != nil {
			return err
		}
		do.Rollback = there.Activate
	}
	return nil
}
