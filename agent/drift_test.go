package agent

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// switched is a driver that knows what a person makes of the host.
type switched struct{ *bundledriver.Driver }

func (s switched) Drift(ctx context.Context, p fleet.ProfileName, path string) (driver.Drift, error) {
	now, err := s.Current(ctx, p)
	if err != nil || now == path {
		return driver.Drift{}, err //nolint:wrapcheck // A test's.
	}
	return driver.Drift{Runs: now, Boots: now}, nil
}

// switchable has a host be one that a person can switch.
func (h *host) switchable() {
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return switched{d} }
}

// switchTo goes to a generation as a person would, and has it looked for.
func (h *host) switchTo(version string) {
	h.t.Helper()
	h.switchUnseen(version)
	h.agent.lookForDrift() // As it does each minute.
}

// switchUnseen goes to a generation as a person would.
func (h *host) switchUnseen(version string) {
	h.t.Helper()
	st := h.agent.journal.State()
	for _, known := range st.Profile(fleet.System).History {
		b, err := os.ReadFile(known.Path + "/version")
		if err != nil || string(b) != version {
			continue
		}
		way, err := h.agent.drivers[bundledriver.Name].Activation(h.t.Context(), fleet.System, "", known.Path)
		if err != nil {
			h.t.Fatal(err)
		}
		link := way.Activate.Steps[0].Link
		if err := os.Remove(link.Path); err != nil {
			h.t.Fatal(err)
		}
		if err := os.Symlink(link.Target, link.Path); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(h.serving(), b, 0o600); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	h.t.Fatalf("nothing of version %s is on record", version)
}

// TestOverridden: what a person switched to by hand is said and named, here and there,
// and left alone; the next generation is activated from it.
func TestOverridden(t *testing.T) {
	h := newHost(t)
	h.switchable()
	h.start()
	h.confirmed(1, "one")
	two := h.confirmed(2, "two")
	h.switchUnseen("one")
	got := h.says( // It looks when it is asked.
		"generation 1.1 (")
	if got.State != fleet.StateHeld || got.Reason.Code != fleet.ReasonOverridden || !strings.Contains(got.Reason.Message, "runs and boots") || got.Current != two {
		t.Errorf("status says %+v", got)
	}
	h.coord.WaitReason(fleet.ReasonOverridden)
	h.expectServing("one")

	// Back by hand as well.
	h.switchTo("two")
	waitProfile(t, h, "as it was left", func(p control.Profile) bool {
		return p.State == fleet.StateConfirmed && p.Reason.Code == fleet.ReasonUpToDate
	})

	h.switchTo("one")
	h.says("generation 1.1 (")
	// What does not work leads back to what the person had made.
	h.publish(3, "three", "exit 1")
	back := waitProfile(t, h, "back to it", func(p control.Profile) bool { return p.State == fleet.StateRolledBack && p.Current.Number.Seq == 1 })
	if strings.Contains(back.Reason.Message, "changed on the host") {
		t.Errorf("what is on record passes for a change: %s", back.Reason.Message)
	}
	h.expectServing("one")
	h.confirmed(4, "four")
	// Also where there is something else to say first.
	h.publish(5, "five", "exit 1")
	waitProfile(t, h, "back from what fails", func(p control.Profile) bool { return p.State == fleet.StateRolledBack && p.Current.Number.Seq == 4 })
	h.switchTo("two")
	if got := h.says("generation 1.2 ("); got.Reason.Code == fleet.ReasonOverridden || !strings.Contains(got.Reason.Message, "not tried again") {
		t.Errorf("status says %+v", got)
	}
}
