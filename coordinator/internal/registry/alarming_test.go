package registry

import (
	"testing"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestAlarming: what broke the glass on a host is an alarm, whatever the state.
func TestAlarming(t *testing.T) {
	for code, want := range map[fleet.ReasonCode]bool{
		fleet.ReasonAppliedByHand: true, fleet.ReasonTrustReset: true, fleet.ReasonJournalRecovered: true,
		fleet.ReasonNewGeneration: false, "": false,
	} {
		if got := alarming(fleet.Transition{State: fleet.StateIdle, Reason: fleet.Reason{Code: code}}); got != want {
			t.Errorf("%q: %t", code, got)
		}
	}
}
