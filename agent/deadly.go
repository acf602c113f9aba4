package agent

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// attemptsDir is below the run directory, which a boot empties: a host that lost power
// says nothing about what its agent was at.
const attemptsDir = "attempts"

// attempt carries out a step towards a generation that does not run yet, on record as
// begun until it ends. One of which the agent died each time is left alone from then on;
// what is under way on the host is the dead-man switch's to end.
func (w *worker) attempt(ctx context.Context, p reconcile.Plan, work func(context.Context) error) error {
	switch p.Step { //nolint:exhaustive // The others are about what runs, or is under way.
	case reconcile.StepAccept, reconcile.StepFetch, reconcile.StepBuild, reconcile.StepActivate:
	default:
		return w.step(ctx, work)
	}
	end, err := w.a.attempts.Enter("work on " + string(w.profile) + " " + string(p.Target.Digest))
	if err != nil {
		w.leave(p.Target.Digest)
		return nil
	}
	defer end()
	return w.step(ctx, work)
}

// decideOnce is decide, on record as begun where it is the first one with that generation
// as the newest.
func (w *worker) decideOnce(now time.Time) reconcile.Plan {
	newest := w.a.bound.Load().desired.NewestDigest(w.profile)
	if newest == "" || newest == w.decidedOn {
		return w.decide(now)
	}
	end, err := w.a.attempts.Enter("decide on " + string(w.profile) + " " + string(newest))
	if err != nil {
		w.leave(newest)
		end = func() {}
	}
	defer end()
	w.decidedOn = newest
	return w.decide(now)
}

// leave has a generation be left alone.
func (w *worker) leave(d fleet.Digest) {
	w.log.Error("this agent died each time that it worked on a generation, which is left alone", "digest", d.Short())
	w.a.bound.Load().desired.Quarantine(d, true)
	w.wake()
}

// pardon has all be tried again of which an agent died, and says whether that is news for
// the profile. A document that could not even be read is asked for again.
func (w *worker) pardon(b *bound) (news bool, err error) {
	st := w.a.journal.State()
	ps := st.Profile(w.profile)
	d, _ := b.desired.Desired(b.host(w.profile, ps.Highest), w.a.now())
	if d.Refusal.Code != fleet.ReasonQuarantined {
		return false, nil
	}
	if err := w.a.attempts.Forget(); err != nil {
		return false, err //nolint:wrapcheck // It says what failed.
	}
	b.desired.Pardon()
	w.a.link.wantRefresh()
	return true, nil
}
