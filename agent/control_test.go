package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// TestObserveIsAPromise: an agent that was told to activate nothing doesn't at a
// person's word either.
func TestObserveIsAPromise(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	second := h.confirmed(2, "two")
	h.crash()
	h.config.Observe = true
	h.start()
	c := h.client()
	_, back := c.RollBack(t.Context(), fleet.System)
	_, again := c.Retry(t.Context(), fleet.System)
	for what, err := range map[string]error{"rollback": back, "retry": again} {
		if !errors.Is(err, control.ErrNotPossible) || !strings.Contains(ui.HintOf(err), "without --observe") {
			t.Errorf("%s: %v (%s)", what, err, ui.HintOf(err))
		}
	}
	h.expectServing("two")
	if p := waitLocal(t, h, fleet.StateConfirmed); p.Current != second || len(p.Refused) > 0 {
		t.Errorf("status: %+v", p)
	}
	if code, _, stderr := h.fleetAgent("rollback", "home/x"); code != exitRefused ||
		strings.Count(stderr, control.ErrNotPossible.Error()) != 1 || !strings.Contains(stderr, "hint:") {
		t.Errorf("a profile that isn't there: %d, %s", code, stderr)
	}
}
