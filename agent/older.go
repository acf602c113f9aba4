package agent

import (
	"fmt"

	"github.com/cameronraysmith/fleet/agent/internal/sync"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// judgeAge looks whether the coordinator offers less than this host accepted
// from it before. Whether it was restored from an older backup or holds
// something back can't be told from here: this host stays where it is, says so,
// and hands over what the coordinator lacks with the next report.
func (a *Agent) judgeAge(b *bound, got sync.Desired) {
	offered := map[fleet.ProfileName]fleet.Number{}
	for _, o := range got.Offers {
		offered[o.Profile] = b.desired.NumberOf(o.Newest)
	}
	st := a.journal.State()
	for name, p := range st.Profiles {
		if p.Highest.IsZero() {
			continue
		}
		n, is := offered[name]
		switch {
		case !is:
			a.noteOlder(fmt.Sprintf("it desires nothing of %s, of which this host accepted generation %s", name, p.Highest.Number))
			return
		case n != (fleet.Number{}) && n.Compare(p.Highest.Number) < 0: // One whose signature is bad has a refusal of its own.
			a.noteOlder(fmt.Sprintf("it offers generation %s of %s, of which this host accepted %s", n, name, p.Highest.Number))
			return
		}
	}
	a.link.note(troubleOlder, fleet.Reason{})
}

// noteOlder says why the coordinator is taken to know less than before.
func (a *Agent) noteOlder(how string) {
	if a.link.trouble(troubleOlder).Code == "" {
		a.config.Log.Warn("the coordinator knows less than before; this host does not go back", "how", how)
		a.link.wantReport()
	}
	a.link.note(troubleOlder, fleet.Reason{
		Code: fleet.ReasonRestoredOlder, Message: "the coordinator knows less than before: " + how,
		Hint: "this host stays where it is and hands over what is missing; if nobody restored a backup of the coordinator, look at fleetctl events",
	})
}
