package agent

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// clockSlack is how far a host's clock may be behind what was signed before
// somebody is told.
const clockSlack = time.Hour

// snapshot is where the host is now, by the journal and the last decisions.
func (a *Agent) snapshot() control.Status {
	st := a.journal.State()
	s := journalStatus(st)
	s.AgentVersion = a.config.Version
	s.Coordinator, s.CoordinatorSeen = a.link.state()
	if behind := a.now().Sub(a.config.Now()); behind > clockSlack && s.Coordinator.Code != "" {
		// Certificates are judged at the later time: that may be why.
		s.Coordinator = fleet.Reason{
			Code: fleet.ReasonClock,
			Message: "this host's clock is " + ui.Span(behind) + " behind the newest time that was signed, which counts instead (" +
				string(s.Coordinator.Code) + ": " + s.Coordinator.Message + ")",
			Hint: "set the clock; if it is right, a publisher's was far ahead: publish anew, then enrol with a fresh state directory",
		}
	}
	_, s.IdentityExpires = a.identity.Validity()
	if id, err := a.identity.Binding(); err == nil {
		s.Machine = id.Machine
	}
	s.Mode = fleet.ModeObserve
	s.Profiles = nil
	for _, w := range a.sorted() {
		w.mu.Lock()
		said, powerLoss, drifted := w.said, w.facts.powerLoss(), w.drifted
		w.mu.Unlock()
		ps := st.Profile(w.profile)
		p := profileStatus(w.profile, ps)
		p.Desired = said.desired
		if said.plan.Reason.Code != "" {
			p.Reason = said.plan.Reason
		}
		if state, ok := stateOf(said.plan); ok && (said.plan.Step != reconcile.StepVerify || !wentBack(ps)) {
			p.State = state
		} else if state, ok := settledState(said, ps); ok {
			p.State = state
		}
		if said.plan.Step == reconcile.StepVerify && p.Reason.Code == "" {
			p.Reason = w.awaits()
		} else if waits := w.awaits(); said.plan.Step == reconcile.StepVerify && ps.Phase == journal.PhaseRollingBack && waits.Code != "" {
			p.Reason.Message += "; it went back, and " + waits.Message
		}
		if said.plan.Step == reconcile.StepNothing && powerLoss.Code != "" && (p.Reason.Code == "" || p.Reason.Code == fleet.ReasonUpToDate) {
			p.Reason = powerLoss
		}
		if said.plan.Step == reconcile.StepNothing && p.Reason.Code == fleet.ReasonUpToDate {
			if r := w.rebootNeeded(); r.Code != "" {
				p.Reason = r
			} else if what := st.Profile(w.profile).Degraded; what != "" {
				p.Reason = degraded(what)
			}
		}
		if ps.Phase == journal.PhaseRolledBack && p.State == fleet.StateRolledBack && p.Reason.Code != "" {
			p.Reason = backBut(p.Reason, ps.Degraded)
		}
		switch rests := said.plan.Step == reconcile.StepNothing || said.plan.Step == reconcile.StepHold; {
		case rests && p.Reason.Code == fleet.ReasonOverridden:
			p.State = fleet.StateHeld // It waits for a person: what was confirmed is not what runs.
		case rests && drifted != "" && p.Reason.Code != fleet.ReasonUpToDate: // Else it is about to be said.
			p.Reason.Message += control.ChangedOnHost + drifted
		}
		local := a.link.trouble(troubleLocal)
		if w.profile == fleet.System && said.plan.Step == reconcile.StepNothing && local.Code != "" &&
			(p.Reason.Code != fleet.ReasonInternal || local.Code == fleet.ReasonDiskFull) {
			p.Reason = local
		}
		if damage := a.link.trouble(troubleDamage); w.profile == fleet.System && said.plan.Step == reconcile.StepNothing && damage.Code != "" {
			p.Reason = damage // It is why nothing, or not that, is desired.
		}
		if said.plan.Step == reconcile.StepNothing && (p.Reason.Code == fleet.ReasonInternal || p.Reason.Code == fleet.ReasonDiskFull || p.Reason.Code == fleet.ReasonQuarantined) {
			// Something may be desired that can't be taken now: what runs is not
			// all that there is to say.
			p.State = fleet.StateHeld
		}
		if w.profile == fleet.System && said.mode != "" {
			s.Mode = said.mode
		}
		s.Profiles = append(s.Profiles, p)
	}
	return s
}

// journalStatus is what the journal alone says.
func journalStatus(st journal.State) control.Status {
	s := control.Status{Mode: st.Mode, Outbox: uint64(st.Outbox())} //nolint:gosec // Not negative.
	if st.Paused != nil {
		s.Paused = st.Paused.Reason
	}
	for name := range st.Profiles {
		s.Profiles = append(s.Profiles, profileStatus(name, st.Profile(name)))
	}
	slices.SortFunc(s.Profiles, func(x, y control.Profile) int { return cmp.Compare(x.Profile, y.Profile) })
	return s
}

func profileStatus(name fleet.ProfileName, p journal.ProfileState) control.Profile {
	out := control.Profile{ProfileStatus: fleet.ProfileStatus{
		Profile: name, State: phaseState(p.Phase), Reason: p.Reason,
		Current: p.Current.Ref, Confirmed: p.Confirmed, LastGood: p.LastGood.Ref, Highest: p.Highest,
	}}
	if p.Held != nil {
		out.State, out.Reason = fleet.StateHeld, *p.Held
	}
	for _, r := range p.Refused {
		out.Refused = append(out.Refused, r.Ref)
	}
	// The highest first: what is cut off is of the least interest.
	slices.SortFunc(out.Refused, func(x, y fleet.Ref) int {
		return cmp.Or(y.Number.Compare(x.Number), cmp.Compare(x.Digest, y.Digest))
	})
	out.Refused = out.Refused[:min(len(out.Refused), fleet.MaxRefusedListed)]
	return out
}

// phaseState is how a phase of the journal is called outside.
func phaseState(p journal.Phase) fleet.State {
	switch p {
	case journal.PhaseIdle:
		return fleet.StateIdle
	case journal.PhaseAccepted:
		return fleet.StateFetching
	case journal.PhaseStaged:
		return fleet.StateStaged
	case journal.PhaseActivating:
		return fleet.StateActivating
	case journal.PhaseActivated:
		return fleet.StateVerifying
	case journal.PhaseVerified:
		return fleet.StateVerified
	case journal.PhaseConfirmed:
		return fleet.StateConfirmed
	case journal.PhaseRollingBack:
		return fleet.StateRollingBack
	case journal.PhaseRolledBack:
		return fleet.StateRolledBack
	case journal.PhaseStuck, journal.PhaseFailed:
		return fleet.StateFailed
	}
	return fleet.StateIdle
}

// wentBack says that a verification is of what the host went back to.
func wentBack(p journal.ProfileState) bool {
	return p.Phase == journal.PhaseRollingBack || p.Phase == journal.PhaseRolledBack
}

// stateOf is the state that a plan puts a profile in, where it says more than
// the journal does.
func stateOf(p reconcile.Plan) (fleet.State, bool) {
	switch p.Step {
	case reconcile.StepHold, reconcile.StepTell:
		return fleet.StateHeld, true
	case reconcile.StepFetch:
		return fleet.StateFetching, true
	case reconcile.StepBuild:
		return fleet.StateBuilding, true
	case reconcile.StepVerify:
		if p.Reason.Code != "" {
			return fleet.StateHeld, true
		}
		return fleet.StateVerifying, true
	case reconcile.StepNothing, reconcile.StepAdopt, reconcile.StepAccept, reconcile.StepActivate,
		reconcile.StepStart, reconcile.StepWithdraw, reconcile.StepAwait, reconcile.StepReboot, reconcile.StepActivated, reconcile.StepVerified,
		reconcile.StepCommit, reconcile.StepConfirm, reconcile.StepRollBack, reconcile.StepRolledBack,
		reconcile.StepFail:
	}
	return "", false
}

// settledState is the state of a profile that runs what is desired of it. The
// journal's phase may be about another generation: one that was accepted, and
// from which the host was sent back before it ran.
func settledState(s said, p journal.ProfileState) (fleet.State, bool) {
	current := p.Current.Ref.Digest
	switch {
	case s.plan.Step != reconcile.StepNothing, current == "", current != s.desired.Digest,
		s.plan.Reason.Code == fleet.ReasonRollbackFailed, !p.CurrentVerified():
		return "", false
	case p.Phase == journal.PhaseVerified, p.Confirmed.Digest != current:
		return fleet.StateVerified, true
	}
	return fleet.StateConfirmed, true
}

// activationOf is the activation that a run belongs to.
func activationOf(run string) string {
	for _, suffix := range []string{"-activate", "-commit", "-rollback-"} {
		if i := strings.LastIndex(run, suffix); i > 0 {
			return run[:i]
		}
	}
	return run
}

// readBootID tells one boot of the operating system from another; empty where
// the system does not say.
func readBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
