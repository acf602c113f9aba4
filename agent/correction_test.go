package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// corrected is a host whose policy undoes what is done by hand, and which runs a second
// generation that fails while a file is there.
func corrected(t *testing.T) (h *host, broken string, two fleet.Ref) {
	t.Helper()
	h, broken = newHost(t), filepath.Join(t.TempDir(), "broken")
	h.switchable()
	h.config.Correction = Correction{After: 100 * time.Millisecond}
	h.start()
	h.confirmed(1, "one")
	two = h.publish(2, "two", "! test -e "+broken, func(g *fleet.Generation) { g.Policy.Drift = fleet.DriftCorrect })
	h.coord.WaitState(fleet.StateConfirmed, two)
	return h, broken, two
}

// looks has the agent look for what was done by hand, as it does each minute, until the
// host is as wanted.
func (h *host) looks(what string, ok func(control.Profile) bool) control.Profile {
	h.t.Helper()
	return waitProfile(h.t, h, what, func(p control.Profile) bool {
		h.agent.lookForDrift()
		return ok(p)
	})
}

func confirmedAgain(p control.Profile) bool {
	return p.State == fleet.StateConfirmed && p.Reason.Code == fleet.ReasonUpToDate
}

// TestDriftCorrected: once it was so for a while, not again too soon, and at once where a
// person says so.
func TestDriftCorrected(t *testing.T) {
	h, _, two := corrected(t)
	h.switchTo("one")
	p := h.looks("corrected", confirmedAgain)
	h.expectServing("two")
	if p.Current != two || len(p.Refused) != 0 {
		t.Errorf("status: %+v", p)
	}
	h.coord.Wait("that it was corrected", func() bool {
		for _, tr := range h.coord.Transitions() {
			if tr.Reason.Code == fleet.ReasonCorrecting {
				return true
			}
		}
		return false
	})

	h.switchTo("one")
	p = h.looks("held", func(p control.Profile) bool { return strings.Contains(p.Reason.Message, "corrected not long ago") })
	if p.State != fleet.StateHeld || p.Reason.Code != fleet.ReasonOverridden {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("one")
	// At once, and not when it was so for a while.
	h.crash()
	h.config.Correction.After = time.Hour
	h.start()
	h.looks("held by the next agent", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonOverridden })
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	h.looks("corrected again", confirmedAgain)
	h.expectServing("two")

	// Also before anybody looked, and the first time.
	h.switchTo("one")
	if r, err := h.client().Retry(t.Context(), fleet.System); err != nil || r.Waited.Code != fleet.ReasonOverridden {
		t.Errorf("retry: %+v, %v", r, err)
	}
	h.looks("corrected once more", confirmedAgain)

	// Nothing was refused, and nothing is to be retried.
	if _, err := h.client().Retry(t.Context(), fleet.System); err == nil {
		t.Error("a retry of nothing")
	}
}

// TestCorrectionFails: the host is left as the person had it, nothing is blamed, and it is
// not tried again by itself, also after a restart.
func TestCorrectionFails(t *testing.T) {
	h, broken, two := corrected(t)
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.switchTo("one")
	failed := func(p control.Profile) bool { return strings.Contains(p.Reason.Message, "correcting that failed") }
	p := h.looks("back", failed)
	if p.State != fleet.StateHeld || p.Reason.Code != fleet.ReasonOverridden || p.Current != two || len(p.Refused) != 0 ||
		!strings.Contains(p.Reason.Message, "exit code 1") {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("one")
	h.coord.WaitReason(fleet.ReasonOverridden)
	runs := len(runsIn(h.agent.runsDir(), fleet.System))
	h.crash()
	h.start()
	h.looks("known to the next agent", failed)
	time.Sleep(3 * h.config.Correction.After) // Nothing is to happen.
	h.looks("the same later", failed)
	if n := len(runsIn(h.agent.runsDir(), fleet.System)); n != runs {
		t.Errorf("%d runs, there were %d", n, runs)
	}

	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	h.looks("corrected at last", confirmedAgain)
	h.expectServing("two")
	h.confirmed(3, "three")
}
