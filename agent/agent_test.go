package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cameronraysmith/fleet/pkg/fleet"
)

func TestHappyPath(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	second := h.confirmed(2, "two")
	p := h.coord.WaitState(fleet.StateConfirmed, second)
	if p.LastGood != first || p.Highest != second || p.Confirmed != second {
		t.Errorf("status: %+v", p)
	}
	var states []fleet.State
	for _, tr := range h.coord.Transitions() {
		if tr.Ref == second {
			states = append(states, tr.State)
		}
	}
	want := []fleet.State{
		fleet.StateFetching, fleet.StateStaged, fleet.StateActivating, fleet.StateVerifying,
		fleet.StateVerified, fleet.StateConfirmed,
	}
	if d := cmp.Diff(want, states); d != "" {
		t.Errorf("transitions of the second generation (-want +got):\n%s", d)
	}
}
