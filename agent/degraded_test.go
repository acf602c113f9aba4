package agent

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// brewing is a driver whose activations end with a part that a host can be without.
type brewing struct {
	*bundledriver.Driver
	fails *atomic.Bool
}

func (b brewing) Activation(ctx context.Context, p fleet.ProfileName, from, to string) (driver.Activation, error) {
	a, err := b.Driver.Activation(ctx, p, from, to)
	if err != nil || len(a.Activate.Steps) == 0 {
		return a, err //nolint:wrapcheck // A test's.
	}
	a.Activate.Steps = append(brews(b.fails), a.Activate.Steps...)
	return a, nil
}

// TestDegradedBack: what failed of the way back that a host can be without is on record, and
// said with why it went back, here and there, until something else runs; also by an agent
// that starts anew.
func TestDegradedBack(t *testing.T) {
	h, fails := newHost(t), &atomic.Bool{}
	fails.Store(true)
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return backBrewing{d, fails} }
	h.start()
	h.confirmed(1, "one")
	h.publish(2, "two", "exit 1", func(*fleet.Generation) {})
	says := func() {
		t.Helper()
		got := waitProfile(t, h, "back", func(p control.Profile) bool { return p.State == fleet.StateRolledBack })
		if got.Reason.Code != fleet.ReasonActivationFailed || strings.Count(got.Reason.Message, "brew failed (exit code 4)") != 1 || !strings.Contains(got.Reason.Message, "went back, but for") {
			t.Errorf("status says %+v", got)
		}
		h.coord.Wait("a report of it", func() bool {
			reports := h.coord.Reports()
			return len(reports) > 0 && slices.ContainsFunc(reports[len(reports)-1].Profiles, func(p fleet.ProfileStatus) bool {
				return p.State == fleet.StateRolledBack && strings.Contains(p.Reason.Message, "brew failed")
			})
		})
	}
	says()
	h.coord.Wait("a transition that says it", func() bool {
		return slices.ContainsFunc(h.coord.Transitions(), func(r fleet.Transition) bool {
			return r.State == fleet.StateRolledBack && strings.Contains(r.Reason.Message, "brew failed")
		})
	})
	h.crash()
	h.start()
	says()
	fails.Store(false)
	h.publish(3, "three", "exit 1", func(*fleet.Generation) {})
	waitProfile(t, h, "back, and whole", func(p control.Profile) bool {
		return p.State == fleet.StateRolledBack && p.Reason.Code == fleet.ReasonActivationFailed && !strings.Contains(p.Reason.Message, "brew")
	})
}

// backBrewing is a driver whose ways back end with a part that a host can be without.
type backBrewing struct {
	*bundledriver.Driver
	fails *atomic.Bool
}

func (b backBrewing) Activation(ctx context.Context, p fleet.ProfileName, from, to string) (driver.Activation, error) {
	a, err := b.Driver.Activation(ctx, p, from, to)
	if err == nil {
		a.Rollback.Steps = append(brews(b.fails), a.Rollback.Steps...)
	}
	return a, err //nolint:wrapcheck // A test's.
}

// brews are steps with such a part.
func brews(fails *atomic.Bool) []driver.Step {
	script := "echo brew..."
	if fails.Load() {
		script += "; exit 4"
	}
	return []driver.Step{{Exec: &driver.Exec{
		Argv: []string{"/bin/sh", "-c", script}, Parts: []driver.Part{{Name: "brew", Heading: "brew...", Rest: []string{"/bin/true"}}},
	}}}
}

// TestDegraded: a generation of which only a part failed that the host can be without is
// confirmed, and that is said, here and there, until another one is activated; also by an
// agent that starts anew.
func TestDegraded(t *testing.T) {
	h, fails := newHost(t), &atomic.Bool{}
	h.wrap = func(d *bundledriver.Driver) driver.Driver { return brewing{d, fails} }
	h.start()
	h.confirmed(1, "one")
	fails.Store(true)
	h.confirmed(2, "two")
	says := func() {
		t.Helper()
		got := waitProfile(t, h, "degraded", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonDegraded })
		if got.State != fleet.StateConfirmed || got.Reason.Message != "brew failed (exit code 4)" || got.Reason.Hint == "" || len(got.Refused) > 0 {
			t.Errorf("status says %+v", got)
		}
	}
	says()
	if got := h.coord.WaitReason(fleet.ReasonDegraded); !strings.Contains(got.Reason.Message, "brew failed") {
		t.Errorf("reported %+v", got)
	}
	h.crash()
	h.start()
	says()
	fails.Store(false)
	h.confirmed(3, "three")
	waitProfile(t, h, "up to date", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonUpToDate })
}
