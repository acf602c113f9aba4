package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/desired"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestDiskFaultDuringHint: what can't be kept for a moment is said, and asked
// for again without waiting for the next poll or hint.
func TestDiskFaultDuringHint(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	for i, dir := range []string{"documents", "profiles"} {
		path := filepath.Join(h.config.StateDir, desiredDir, dir)
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		next := h.publish(uint64(i+2), dir, "")
		p := h.coord.WaitReason(fleet.ReasonInternal)
		if p.State != fleet.StateHeld || !strings.Contains(p.Reason.Message, dir) || p.Reason.Hint == "" {
			t.Errorf("reported: %+v", p)
		}
		waitProfile(t, h, "unable", func(p control.Profile) bool {
			return p.State == fleet.StateHeld && p.Reason.Code == fleet.ReasonInternal
		})
		waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == fleet.ReasonInternal })
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		h.coord.WaitState(fleet.StateConfirmed, next)
		waitStatus(t, h, func(r fleet.Reason) bool { return r.Code == "" })
	}
}

// TestFloorIsRecordedWhenAccepted: with the number, so that one flush is for both; before,
// the document keeps it, also over a restart.
func TestFloorIsRecordedWhenAccepted(t *testing.T) {
	h := newHost(t)
	h.start()
	later := time.Now().UTC().Truncate(time.Second).Add(10 * time.Minute) // No clock is that far ahead.
	ref := h.publish(1, "one", "", func(g *fleet.Generation) { g.Issued = later })
	h.coord.WaitState(fleet.StateConfirmed, ref)
	if got := h.agent.journal.State().Floor; !got.Equal(later) {
		t.Errorf("recorded %s, want %s", got, later)
	}
	h.crash()
	a, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	b := a.bound.Load()
	latest := later.Add(time.Minute)
	g, _ := h.generation(2, "two", "")
	g.Issued = latest
	env, _ := h.fleet.Seal(g)
	offer := desired.Offer{Profile: fleet.System, Newest: desired.Document{Generation: env}}
	if err := b.desired.Take(b.host(fleet.System, ref), offer, latest); err != nil {
		t.Fatal(err)
	}
	if err := a.keepFloor(b); err != nil {
		t.Fatal(err)
	}
	if got := a.journal.State().Floor; !got.Equal(later) {
		t.Errorf("recorded %s before it was accepted", got)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = h.open(); err != nil {
		t.Fatal(err)
	}
	if got := a.now(); got.Before(latest) {
		t.Errorf("after a restart it is %s, before %s", got, latest)
	}
	// The keys of that document count for nothing any more.
	next := agenttest.NewFleet(t)
	if _, err := a.ResetTrust(next.Roots[0], next.RootPin, "a test"); err != nil {
		t.Fatal(err)
	}
	if got := a.journal.State().Floor; !got.Equal(latest) {
		t.Errorf("recorded %s with another trust root, want %s", got, latest)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestFloorIsRecordedLater: a floor that could not be recorded is at the next
// occasion.
func TestFloorIsRecordedLater(t *testing.T) {
	h := newHost(t)
	a, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	floor := h.fleet.Issued
	a.raiseFloor(floor) // as by an attempt whose record failed
	if err := a.recordFloor(floor); err != nil {
		t.Fatal(err)
	}
	if got := a.journal.State().Floor; !got.Equal(floor) {
		t.Errorf("recorded %s, want %s", got, floor)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}
