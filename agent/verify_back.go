package agent

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// backID names the verification of the way back from an activation.
func backID(act *journal.Activation) string { return act.ID + "-back" }

// verifyBack verifies what the host went back to, with its own probes and deadline.
// Nothing of it is on record: an agent that dies of it verifies once more, and the
// dead-man switch goes back once more, until somebody ends it.
func (w *worker) verifyBack(ctx context.Context, act *journal.Activation) error {
	w.rearm(ctx, act)
	w.begin(backID(act))
	t := w.trialOf(act.LeadsTo())
	t.ran, t.alone = act.Rollback, !act.OnlineBefore
	if g, err := w.a.bound.Load().desired.LoadAccepted(act.To.Ref.Digest); err == nil {
		t.witnesses(act, g.Reach) // It names who was asked before.
	}
	if err := w.handBack(ctx, act, t.deadline); err != nil {
		return err
	}
	w.allow(ctx, act, t.deadline)
	return w.verifyWithin(ctx, t)
}

// handBack hands over to the agent that is the host's own again, so that it is the one
// that verifies. What can't be told, or does not come to pass, is no evidence against
// what was there before.
func (w *worker) handBack(ctx context.Context, act *journal.Activation, deadline time.Duration) error {
	if w.a.config.Service == nil || w.profile != fleet.System {
		return nil
	}
	st, err := w.a.config.Service.Look(ctx, act.Agent == journal.AgentStarts)
	if err == nil && st.Other != "" {
		w.log.Info("handing over to the agent that the host went back to", "why", st.Other)
		w.allow(ctx, act, deadline) // It has all of that.
		err = w.a.handOver(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		w.log.Warn("the way back is verified by this agent", "error", err)
	}
	return nil
}

// doubtID names the verification of what runs after a rollback that did not prove to
// work.
func doubtID(ps journal.ProfileState) string { return string(ps.Current.Ref.Digest) + "-doubt" }

// verifyDoubt looks again, ever more rarely, whether what the host went back to works by
// now. Only status and reports change by it.
func (w *worker) verifyDoubt(ctx context.Context, ps journal.ProfileState) error {
	if w.begin(doubtID(ps)) {
		if err := w.again(ctx); err != nil {
			return err
		}
	}
	t := w.trialOf(ps.Current)
	t.deadline = min(t.deadline, lateDeadline)
	if r := w.a.reachOf(w.a.bound.Load()); r.Coordinator {
		t.outside = r.Witnesses
	}
	return w.verifyWithin(ctx, t)
}

// trialOf is the verification of what was verified before. Where its document was pruned,
// or there never was one, what its path brings along has to do.
func (w *worker) trialOf(b journal.Built) trial {
	t := trial{of: b, deadline: fleet.DefaultVerify}
	if b.Ref.Digest == "" {
		return t
	}
	g, err := w.a.bound.Load().desired.LoadAccepted(b.Ref.Digest)
	if err != nil {
		w.log.Warn("what was verified before is verified without its signed probes", "error", err)
		return t
	}
	t.doc, t.deadline = g, g.Policy.VerifyDeadline.Or(fleet.DefaultVerify)
	return t
}

// proof is what is known of the verification that is named; c is unchanged where that is
// nothing.
func (f facts) proof(c *reconcile.Change, id string) {
	if f.verifyID == id {
		c.Probes, c.ProbeDetail, c.Reached, c.Overdue = f.probes, f.probeDetail, f.reached, f.overdue
		c.Orphaned, c.ReachDetail, c.Witnessed = f.orphaned, f.reachDetail, f.witnessed
	}
}

// doubt is why what the host went back to is not known to work; its zero value where it
// works, or nothing is in doubt.
func (f facts) doubt(ps journal.ProfileState) fleet.Reason {
	corrected := ps.Ref.Digest == ps.Current.Ref.Digest // Then a person's own runs.
	if ps.Phase != journal.PhaseRolledBack || corrected || ps.Reason.Code != fleet.ReasonRollbackUnverified {
		return fleet.Reason{}
	}
	if f.verifyID == doubtID(ps) && f.probes == fleet.VerdictPass && f.reached {
		return fleet.Reason{}
	}
	return ps.Reason
}
