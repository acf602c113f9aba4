package agent

import (
	"fmt"
	"slices"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// inputs of one decision.
type inputs struct {
	desired  reconcile.Desired
	observed reconcile.Observed
	policy   reconcile.Policy
	state    journal.ProfileState
}

// observe gathers what Decide needs: the journal, the executor's word on what
// runs, what this process found out, and the documents, admitted at now.
func (w *worker) observe(now time.Time) inputs {
	st := w.a.journal.State()
	p := st.Profile(w.profile)
	in := inputs{state: p}
	b := w.a.bound.Load()
	in.desired, _ = b.desired.Desired(b.host(w.profile, p.Highest), now)
	in.policy = w.policy(b, st, p)

	o := &in.observed
	switch t := in.desired.Target; {
	case p.Activation != nil:
		o.Hindrance = w.hindrance(p.Activation.To.Ref)
	case t != nil && (t.Digest != p.Current.Ref.Digest || p.Asked != nil || unsure(p)):
		o.Hindrance = w.hindrance(*t)
	}
	// On the way to something else drift decides nothing, and need not be looked for.
	// With an activation it is over.
	target := in.desired.Target
	looks, drifted := target == nil || target.Digest == p.Current.Ref.Digest || p.Activation != nil, ""
	if looks {
		drifted = w.drift(p)
	}
	w.mu.Lock()
	f := w.facts
	if looks {
		w.saw(drifted)
	}
	drifted, stands := w.drifted, w.stands()
	w.hindered = o.Hindrance.Code != ""
	w.mu.Unlock()
	*o = reconcile.Observed{
		Hindrance: o.Hindrance,
		Adopted:   p.Adopted, Current: p.Current.Ref, Highest: p.Highest,
		Refused: map[fleet.Digest]fleet.Reason{}, Fetched: f.fetched,
		Drift: drifted, DriftStands: stands,
	}
	o.CorrectAt, o.CorrectionFailed = w.mayCorrect(p, now)
	if p.Asked != nil {
		o.RollBackAsked = p.Asked.Reason
	}
	o.LastGood, o.HasLastGood = lastGood(p)
	o.Unsure = unsure(p)
	for d, r := range p.Refused {
		o.Refused[d] = r.Reason
	}
	if p.Staged.Ref.Digest != f.damaged {
		o.Staged = p.Staged.Ref.Digest
	}
	if in.desired.Target != nil && f.wait != nil && f.waitFor == in.desired.Target.Digest {
		o.Wait = &reconcile.Wait{Until: now.Add(f.wait.until.Sub(awake())), Reason: f.wait.reason}
	}
	// One that was confirmed before, rolled back from and verified again is to
	// be acknowledged again: the phase tells.
	if p.CurrentVerified() && p.Current.Ref.Digest != "" &&
		(p.Confirmed.Digest != p.Current.Ref.Digest || p.Phase == journal.PhaseVerified) {
		o.Unconfirmed, o.Acked = true, w.acked()
	}
	_, bad := p.Refused[p.Ref.Digest]
	if bad = bad || p.Ref.Digest == p.Current.Ref.Digest && o.CorrectionFailed.Code != ""; p.Phase == journal.PhaseStuck && bad {
		o.Broken, o.BrokenWith = true, p.Highest.Number
	}
	o.Change, o.Doubt = w.change(p, f), f.doubt(p)
	o.Before = w.before(st)
	if target != nil && p.Activation == nil && o.Staged == target.Digest {
		w.needsBoot(&in, f)
	}
	w.atConsole(&in, now, f)
	return in
}

// lastGood is the newest verified generation other than what runs. What
// enrolment found counts; the journal's own word can't tell it from none.
func lastGood(p journal.ProfileState) (fleet.Ref, bool) {
	for _, g := range slices.Backward(p.History) {
		if g.Is(p.LastGood.Ref) && !g.Is(p.Current.Ref) {
			return g.Ref, true
		}
	}
	return fleet.Ref{}, false
}

// unsure says that what runs was never verified, and nothing is in flight: a
// rollback from it failed.
func unsure(p journal.ProfileState) bool {
	return p.Adopted && p.Activation == nil && !p.CurrentVerified()
}

// acked says whether everything that was said about the profile's newest
// verified state is durable at the coordinator.
func (w *worker) acked() bool {
	for _, t := range w.a.journal.Pending(0) {
		if t.Profile == w.profile && t.State == fleet.StateVerified {
			return false
		}
	}
	return true
}

// policy is what rules the profile now.
func (w *worker) policy(b *bound, st journal.State, p journal.ProfileState) reconcile.Policy {
	pol := reconcile.Policy{Mode: fleet.ModeObserve}
	newest := b.desired.Newest(w.profile)
	if newest != nil {
		pol.CorrectDrift = newest.Generation.Doc.Policy.Drift == fleet.DriftCorrect
		pol.Mode = newest.Generation.Doc.Policy.Mode
		if pol.Mode == "" {
			pol.Mode = fleet.ModeManage
		}
		if !newest.Generation.Doc.Policy.Console.IsZero() {
			w.a.wantConsole()
		}
	}
	if w.a.config.Observe {
		pol.Mode = fleet.ModeObserve
	}
	if st.Paused != nil {
		pol.Paused = st.Paused.Reason
	}
	pol.Stale, pol.StaleHolds = w.stale(b, newest, st, p)
	if p.Activation != nil {
		if g, err := b.desired.LoadAccepted(p.Activation.To.Ref.Digest); err == nil {
			pol.OnInconclusive = g.Policy.OnInconclusive
		}
	}
	return pol
}

// Names of an activation's runs.
func activateRun(a *journal.Activation) string { return a.ID + "-activate" }

func commitRun(a *journal.Activation, n int) string {
	return fmt.Sprintf("%s-commit-%d", a.ID, n)
}

func rollbackRun(a *journal.Activation, n int) string {
	return fmt.Sprintf("%s-rollback-%d", a.ID, n)
}

// change is the activation in flight, with all that is known of it.
func (w *worker) change(p journal.ProfileState, f facts) *reconcile.Change {
	act := p.Activation
	if act == nil {
		return nil
	}
	c := &reconcile.Change{
		From: act.Back().Ref, To: act.To.Ref, Cause: p.Reason, OnlineBefore: act.OnlineBefore, Correction: act.Undoes != nil,
	}
	c.Fired = w.fired(act)
	c.Boots, c.MayReboot = act.Boots, act.MayReboot
	switch p.Phase {
	case journal.PhaseActivating:
		c.Phase = reconcile.PhaseActivating
		c.Run, c.RunDetail = w.runOf(activateRun(act), f)
		if act.Boots || act.Undoes != nil {
			w.booted(c, act)
		}
		c.Stale = act.Undoes != nil && c.Run == reconcile.RunNone && !w.madeStill(act)
	case journal.PhaseActivated:
		c.Phase = reconcile.PhaseVerifying
		w.booted(c, act)
		f.proof(c, act.ID)
	case journal.PhaseVerified, journal.PhaseConfirmed:
		c.Phase = reconcile.PhaseVerified
	case journal.PhaseRollingBack:
		c.Phase = reconcile.PhaseRollingBack
		w.rollback(c, act, f)
		f.proof(c, backID(act))
		if act.MayReboot {
			w.returned(c, act)
		}
	case journal.PhaseIdle, journal.PhaseAccepted, journal.PhaseStaged, journal.PhaseRolledBack,
		journal.PhaseStuck, journal.PhaseFailed:
		// The journal keeps no activation in these.
		c.Phase = reconcile.Phase(p.Phase)
	}
	return c
}

// rollback finds the newest run of a rollback. That each has a name of its own
// is how a restarted agent knows how many were tried.
func (w *worker) rollback(c *reconcile.Change, act *journal.Activation, f facts) {
	c.Run = reconcile.RunNone
	for n := 1; n <= reconcile.MaxRollBackAttempts; n++ {
		run, detail := w.runOf(rollbackRun(act, n), f)
		if run == reconcile.RunNone {
			return
		}
		c.Run, c.RunDetail, c.Attempts = run, detail, n
	}
}

// runOf is the executor's word. A lost run counts as running until it was
// waited for: that ends what it left behind.
func (w *worker) runOf(id string, f facts) (reconcile.Run, string) {
	if f.runID == id && f.run != nil {
		return f.run.run, f.run.detail
	}
	st, err := w.a.executor.Status(id)
	if err != nil {
		w.log.Error("looking at a run failed", "run", id, "error", err)
		return reconcile.RunRunning, err.Error()
	}
	switch st.Phase {
	case execute.PhaseAbsent:
		return reconcile.RunNone, ""
	case execute.PhaseRunning, execute.PhaseLost:
		return reconcile.RunRunning, ""
	case execute.PhaseDone:
	}
	return outcome(w.profile, st.Result)
}

func outcome(p fleet.ProfileName, r execute.Result) (reconcile.Run, string) {
	switch r.Outcome {
	case execute.OutcomeOK:
		return reconcile.RunSucceeded, ""
	case execute.OutcomeHung:
		return reconcile.RunHung, r.Message
	case execute.OutcomeLost, execute.OutcomeStopped, execute.OutcomeBusy:
		return reconcile.RunLost, r.Message
	case execute.OutcomeExit:
		// What it printed does not travel: it may be secret, and the coordinator is
		// nobody to tell.
		return reconcile.RunFailed, r.Message + "; " + logsCommand(p) + " there has what it printed"
	case execute.OutcomeError:
	}
	return reconcile.RunFailed, r.Message
}

// logsCommand shows what was printed in a profile.
func logsCommand(p fleet.ProfileName) string {
	if p == fleet.System {
		return "fleet-agent logs"
	}
	return "fleet-agent logs " + string(p)
}
