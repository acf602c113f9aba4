package agent

import (
	"context"
	"slices"
	"strings"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/driver"
)

// drift is what a person made of a profile that nothing is in flight for, by hand;
// empty where it is as it was activated, and where no generation of the fleet runs.
// Only the host's own drivers are asked: a plugin's would be started for it.
func (w *worker) drift(ps journal.ProfileState) string {
	name := ps.Current.Driver
	if ps.Current.Ref.Digest == "" || ps.Current.Path == "" || ps.Activation != nil || w.a.drivers[name] == nil {
		return ""
	}
	d, err := driver.DriftOf(context.Background(), w.a.drivers[name], w.profile, ps.Current.Path)
	if err != nil {
		w.log.Debug("whether somebody changed what runs can't be told", "error", err)
		return ""
	}
	var parts []string
	boots, not := " boots", " runs, which does not boot"
	if w.profile.User() != "" { // No boot activates a home.
		boots, not = " is its Nix profile", " runs, which is not its Nix profile"
	}
	switch {
	case d.Runs != "" && d.Boots == d.Runs:
		parts = append(parts, called(ps, d.Runs)+" runs and"+boots)
	case d.Runs != "" && d.Boots != "":
		parts = append(parts, called(ps, d.Runs)+" runs", called(ps, d.Boots)+boots)
	case d.Runs != "":
		parts = append(parts, called(ps, d.Runs)+not)
	case d.Boots != "":
		parts = append(parts, called(ps, d.Boots)+boots+", which does not run")
	}
	if d.Gone {
		parts = append(parts, ps.Current.Path+" is gone")
	}
	return strings.Join(parts, ", ")
}

// saw notes what a person made of the profile, under the worker's lock, and says whether
// that is news.
func (w *worker) saw(drifted string) (news bool) {
	if w.drifted == drifted {
		return false
	}
	w.drifted, w.driftedSince = drifted, awake()
	return true
}

// called is a path, with the generation that it is of.
func called(ps journal.ProfileState, path string) string {
	for _, known := range slices.Backward(ps.History) {
		if known.Path == path && known.Ref.Digest != "" {
			return "generation " + known.Ref.Number.String() + " (" + path + ")"
		}
	}
	return path
}

// lookForDrift has profiles decide again that a person changed, or put back, and those
// that the host keeps from going on.
func (a *Agent) lookForDrift() {
	for _, w := range a.sorted() {
		st := a.journal.State()
		now := w.drift(st.Profile(w.profile))
		w.mu.Lock()
		changed, hindered := w.saw(now), w.hindered
		w.mu.Unlock()
		if changed {
			a.link.wantReport()
		}
		if changed || hindered || now != "" {
			w.wake() // What stands may be corrected, and what hindered may be over.
		}
	}
}
