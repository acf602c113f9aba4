package agent

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// unfitFor is a driver on a host that is not fit for a profile, as long as that is set.
type unfitFor struct {
	*bundledriver.Driver
	unfit *atomic.Bool
}

func (u unfitFor) Hindrance(context.Context, fleet.ProfileName) (fleet.Reason, error) {
	if u.unfit.Load() {
		return fleet.Reason{Code: fleet.ReasonNoUser, Message: "this host has no user ann", Hint: "make it"}, nil
	}
	return fleet.Reason{}, nil
}

// TestHindered: what the host lacks is said, held, and not remembered against the
// generation, which is gone on with once the host has it; what runs stays.
func TestHindered(t *testing.T) {
	h, unfit := newHost(t), &atomic.Bool{}
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return unfitFor{d, unfit} }
	h.start()
	h.confirmed(1, "one")
	unfit.Store(true)
	h.agent.lookForDrift() // As it does each minute. What runs is no matter of it.
	waitProfile(t, h, "what runs goes on", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonUpToDate })
	two := h.publish(2, "two", "")
	held := waitProfile(t, h, "held", func(p control.Profile) bool { return p.State == fleet.StateHeld })
	if held.Reason.Code != fleet.ReasonNoUser || held.Reason.Hint == "" || len(held.Refused) > 0 || held.Current.Number.Seq != 1 {
		t.Errorf("status says %+v", held)
	}
	h.coord.WaitReason(fleet.ReasonNoUser)
	h.expectServing("one")
	h.crash()
	h.start()
	waitProfile(t, h, "still held", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonNoUser })
	unfit.Store(false)
	h.agent.lookForDrift()
	h.coord.WaitState(fleet.StateConfirmed, two)
	h.expectServing("two")
}
