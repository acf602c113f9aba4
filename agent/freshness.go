package agent

import (
	"fmt"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// takeFreshness keeps a freshness statement. Refusals are noted and no errors.
func (a *Agent) takeFreshness(b *bound, envelope []byte) error {
	if len(envelope) == 0 {
		a.link.note(troubleFreshness, fleet.Reason{})
		return nil
	}
	err := b.desired.TakeFreshness(b.fleet, b.machine, a.latest(), envelope)
	a.link.note(troubleFreshness, release.ReasonOf(err))
	if err != nil {
		a.config.Log.Warn("freshness statement not taken", "reason", string(release.ReasonOf(err).Code), "error", err)
	}
	return notRefusal(err)
}

// stale says why this host can't know whether what it is offered is the newest,
// and whether that keeps activations from starting. It is silent in a fleet
// whose trust root has nobody to say what is new. newest is the profile's newest
// generation, nil where there is none.
func (w *worker) stale(b *bound, newest *desired.Opened, st journal.State, p journal.ProfileState) (fleet.Reason, bool) {
	var most time.Duration
	if newest != nil {
		most = time.Duration(newest.Generation.Doc.Policy.Freshness)
	}
	t := b.desired.Trust()
	if t == nil || !t.Fills(release.RoleFreshness) && most == 0 {
		return fleet.Reason{}, false
	}
	f := b.desired.Freshness()
	now := w.a.now()
	switch {
	case f == nil:
		return fleet.Reason{
			Code: fleet.ReasonStale, Message: "this host has no statement of what is the newest",
			Hint: "look at the agent that holds the freshness key",
		}, w.held(st, most, now)
	case now.After(f.Doc.Expires), most > 0 && now.Sub(f.Doc.Issued) > most:
		return fleet.Reason{
			Code:    fleet.ReasonStale,
			Message: "the newest statement of what is new is of " + f.Doc.Issued.UTC().Format(time.DateTime),
			Hint:    "look at the agent that holds the freshness key; if it works, the coordinator keeps its statements back",
		}, w.held(st, most, now)
	case f.Doc.Root > t.Root().Version:
		return withheld(fmt.Sprintf("trust root %d", f.Doc.Root)), w.held(st, most, now)
	}
	if ref, ok := f.Doc.Highest[w.profile]; ok && ref.Number.Compare(p.Highest.Number) > 0 &&
		(newest == nil || newest.Ref().Number.Compare(ref.Number) < 0) {
		return withheld(fmt.Sprintf("generation %s", ref.Number)), w.held(st, most, now)
	}
	return fleet.Reason{}, false
}

func withheld(what string) fleet.Reason {
	return fleet.Reason{
		Code: fleet.ReasonWithheld, Message: what + " was published, and the coordinator does not offer it",
		Hint: "wait a moment; if it stays so, the coordinator keeps it back: look at its event log",
	}
}

// held says whether being stale keeps activations from starting: the signed
// policy asks for freshness, and no signed loosening lets them start all the
// same.
func (w *worker) held(st journal.State, most time.Duration, now time.Time) bool {
	return most > 0 && !now.Before(st.StaleUntil[w.profile])
}
