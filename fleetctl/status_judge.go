package fleetctl

import (
	"fmt"
	"slices"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// stateWaiting is said of a profile whose host has not reported on what is
// desired; hosts never report it.
const stateWaiting = "waiting"

// judge replaces the last reported state of profiles where that is not about
// what is desired now.
func (m *machineStatus) judge(w *workspace) error {
	if m.Banned != "" || m.Disabled || !m.InInventory {
		return nil
	}
	if b, ok := w.banned[fleet.MachineName(m.Machine)]; ok {
		// The next publish tells a coordinator that lost its store.
		m.Banned = b.Reason + " (the coordinator does not know: publish, or give it a new kit)"
		return nil
	}
	if !m.Enrolled {
		rec, err := w.Host(fleet.MachineName(m.Machine))
		if err != nil || rec == nil {
			return err
		}
		m.recorded = true
		if len(m.Profiles) == 0 {
			m.Profiles = []profileStatus{{Profile: string(fleet.System)}}
		}
		for i := range m.Profiles {
			m.Profiles[i].State, m.Profiles[i].Reason = stateWaiting, reasonStatus{
				Code: fleet.ReasonNotSeen, Message: "enrolled before; not seen since the coordinator lost its store",
				Hint: "start its agent: it needs no new token",
			}
		}
		return nil
	}
	for i := range m.Profiles {
		if q := &m.Profiles[i]; m.waits(q) {
			q.State, q.Reason = stateWaiting, m.whyWaiting(q)
		}
	}
	return nil
}

// waits says whether the desired generation is none that the reported state is
// about.
func (m *machineStatus) waits(q *profileStatus) bool {
	want := q.Desired.Digest
	if want == "" || want == q.Current.Digest {
		return false
	}
	for _, r := range q.Refused {
		if r.Digest == want {
			return false
		}
	}
	settled := []fleet.State{"", fleet.StateConfirmed, fleet.StateVerified}
	content := []fleet.ReasonCode{"", fleet.ReasonUpToDate, fleet.ReasonAwaitingAck, fleet.ReasonNothingDesired, fleet.ReasonCrashRecovery, fleet.ReasonRebootNeeded, fleet.ReasonDegraded, fleet.ReasonOverridden}
	resting := []fleet.State{fleet.StateIdle, fleet.StateRolledBack}
	state := fleet.State(q.State)
	switch {
	case state == fleet.StateHeld && q.Reason.Code == fleet.ReasonOverridden, slices.Contains(settled, state):
		// A connected one that has another reason was told, and refuses.
		return !m.Connected || slices.Contains(content, q.Reason.Code)
	case !slices.Contains(resting, state) || want == q.Highest.Digest:
		return false // It works on it, or has taken it and said why it rests.
	}
	// A connected host that may not act says so of all that comes.
	return !m.Connected || q.Reason.Code != fleet.ReasonObserve && q.Reason.Code != fleet.ReasonPaused
}

func (m *machineStatus) whyWaiting(q *profileStatus) reasonStatus {
	if m.Connected {
		return reasonStatus{Code: fleet.ReasonNotReported, Message: "was told, has not answered yet", Hint: "look again in a moment; then at fleet-agent logs"}
	}
	since := "yet"
	if m.LastSeen != nil {
		since = "since " + m.LastSeen.Format("01-02 15:04")
	}
	return reasonStatus{
		Code: fleet.ReasonNotSeen, Message: fmt.Sprintf("not seen %s; takes generation %s when back", since, q.Desired.Number),
		Hint: "start the machine or its agent",
	}
}
