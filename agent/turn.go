package agent

import (
	"fmt"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// What the system's activation breaks for a while, the network say, must not be held against
// the generation of a home that is verified at the same moment. So a home's activation begins
// only while no change of the system is under way, and what fails beside one is verified anew.
// The system waits for no home: its user may be at war with it.

// before is the profile whose change is to be judged before an activation of w's may begin;
// empty for none.
func (w *worker) before(st journal.State) fleet.ProfileName {
	if _, under := w.besideSystem(st); under {
		return fleet.System
	}
	return ""
}

// besideSystem says whether a change of the system is under way beside w's own profile, and
// names how far the system is: two names that differ have a change between them.
func (w *worker) besideSystem(st journal.State) (at string, under bool) {
	if w.profile == fleet.System {
		return "", false
	}
	p := st.Profile(fleet.System)
	id := ""
	if p.Activation != nil {
		id = p.Activation.ID
	}
	at = fmt.Sprint(p.Phase, p.Ref.Number, p.Current.Ref.Number, id)
	for _, other := range w.a.sorted() {
		if other.profile == fleet.System {
			return at, other.underWay(p)
		}
	}
	return at, false
}

// underWay says whether a change is to be waited for. One that waits itself, as one that is
// kept though nobody knows whether it works, may do so for ever; so may one whose step fails
// for a reason of the host's.
func (w *worker) underWay(p journal.ProfileState) bool {
	if p.Activation == nil || p.Phase != journal.PhaseActivating && p.Phase != journal.PhaseActivated && p.Phase != journal.PhaseRollingBack {
		return false // Nothing of it is in question.
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := p.Phase == journal.PhaseActivated && w.said.plan.Step == reconcile.StepVerify && w.said.plan.Reason.Code != ""
	return w.failing == nil && !kept && w.said.plan.Step != reconcile.StepHold
}

// next has the other profiles decide again: one of them may have waited for this one.
func (w *worker) next() {
	for _, other := range w.a.sorted() {
		if other != w {
			other.wake()
		}
	}
}
