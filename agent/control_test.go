package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

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
	_, back := c.RollBack(t.Context(), fleet.System, fleet.Number{})
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

// TestRetryOfNothing: where nothing is refused and nothing waits, a retry says
// so and where the host is.
func TestRetryOfNothing(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.client()
	if code, stdout, stderr := h.fleetAgent("retry"); code != exitError || stdout != "" ||
		!strings.Contains(stderr, control.ErrNothingRefused.Error()+": system is confirmed") || !strings.Contains(stderr, "hint:") {
		t.Errorf("retry of what runs: %d, %s%s", code, stdout, stderr)
	}
	pause(t, h)
	h.publish(2, "two", "")
	h.coord.WaitReason(fleet.ReasonPaused)
	if code, _, stderr := h.fleetAgent("retry"); code != exitError || !strings.Contains(stderr, "fleet-agent resume") {
		t.Errorf("retry of what is paused: %d, %s", code, stderr)
	}
}

// TestRetryEndsWait: a retry ends the wait for the next attempt, and says that
// it was one.
func TestRetryEndsWait(t *testing.T) {
	h := newHost(t)
	h.config.Retry = Retry{First: time.Hour, Max: time.Hour, Slow: time.Hour}
	h.start()
	h.client()
	g, blob := h.generation(1, "one", "")
	env, ref := h.fleet.Seal(g)
	h.coord.Publish(env, nil)
	h.coord.WaitReason(fleet.ReasonFetchFailed)
	h.coord.Publish(env, nil, blob)
	code, stdout, stderr := h.fleetAgent("retry")
	if code != exitOK || !strings.Contains(stdout, "waits no longer ("+string(fleet.ReasonFetchFailed)) || !strings.Contains(stdout, "1.1") {
		t.Errorf("retry: %d, %s%s", code, stdout, stderr)
	}
	h.coord.WaitState(fleet.StateConfirmed, ref)
}
