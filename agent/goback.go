package agent

import (
	"context"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// RollBack returns a profile to its last-good and refuses what runs. Who names
// the generation to leave, and asks again because no answer came, does not go
// back twice.
func (a *Agent) RollBack(_ context.Context, p fleet.ProfileName, leaving fleet.Number, actor string) (control.RolledBack, error) {
	var none control.RolledBack
	_, w, err := a.acting(p)
	if err != nil {
		return none, err
	}
	st := a.journal.State()
	ps := st.Profile(p)
	if !leaving.IsZero() {
		if target, left := leftBefore(ps, leaving); left {
			return control.RolledBack{Target: target, Already: true}, nil
		}
		if runs := ps.Current.Ref.Number; runs != leaving && (ps.Activation == nil || ps.Phase == journal.PhaseActivated) {
			return none, control.NotPossible("fleet-agent status tells what runs", "generation %s does not run here%s", leaving, butThat(runs))
		}
	}
	target, ok := lastGood(ps)
	switch {
	case ps.Activation != nil && ps.Phase == journal.PhaseActivated && ps.Activation.Undoes == nil && ps.Activation.Back().Ref.Digest == ps.Activation.To.Ref.Digest:
		// As after a revert to what runs under what was kept: it would be refused, and run.
		return none, control.NotPossible("publish a new generation instead", "what it would go back to is the same generation")
	case ps.Activation != nil && ps.Phase == journal.PhaseActivated:
		target = ps.Activation.Back().Ref
	case ps.Activation != nil:
		return none, control.NotPossible("wait until that has ended: fleet-agent status tells", "the profile is %s", ps.Phase)
	case ps.Current.Ref.Digest == "":
		return none, control.NotPossible("", "what runs is no generation of this fleet")
	case !ok:
		return none, control.NotPossible("publish a new generation instead", "there is no last-good generation to go to")
	case !ps.RevokedBefore.IsZero():
		if g, err := a.bound.Load().desired.LoadAccepted(target.Digest); err != nil || g.Issued.Before(ps.RevokedBefore) {
			return none, control.NotPossible("publish a new generation instead, with new values",
				"generation %s has values that were revoked on %s", target.Number, ps.RevokedBefore.UTC().Format(time.DateTime))
		}
	}
	// On record before it is answered: the agent may die before it begins.
	if err := w.append(journal.Record{
		Kind: journal.KindRollBackAsked, Digest: ps.Current.Ref.Digest, Actor: actor,
		Reason: fleet.Reason{
			Code: fleet.ReasonOperatorRefused, Message: "rolled back by " + actor,
			Hint: "publish a new generation, or try this one again with fleet-agent retry",
		},
	}); err != nil {
		return none, err
	}
	w.wake()
	return control.RolledBack{Target: target}, nil
}

// leftBefore says whether a person had the profile leave that generation, and
// where to. One that was allowed again since, and runs, was not left.
func leftBefore(ps journal.ProfileState, n fleet.Number) (to fleet.Ref, left bool) {
	act := ps.Activation
	if ps.Current.Ref.Number == n && ps.Asked != nil && ps.Asked.Digest == ps.Current.Ref.Digest {
		if act != nil {
			return act.Back().Ref, true
		}
		return lastGood(ps)
	}
	byPerson := false
	for _, r := range ps.Refused {
		byPerson = byPerson || r.Ref.Number == n && r.Reason.Code == fleet.ReasonOperatorRefused
	}
	switch {
	case !byPerson:
		return fleet.Ref{}, false
	case ps.Phase == journal.PhaseRollingBack && act != nil && act.To.Ref.Number == n:
		return act.Back().Ref, true
	default:
		return ps.Current.Ref, ps.Current.Ref.Number != n
	}
}

// butThat says what runs instead.
func butThat(runs fleet.Number) string {
	if runs.IsZero() {
		return ""
	}
	return ": " + runs.String() + " does"
}
