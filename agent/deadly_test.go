package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/quarantine"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// dies is a driver whose Build is where a test has the agent die.
type dies struct {
	*bundledriver.Driver
	deadly *atomic.Bool
	begun  chan struct{}
}

func (d dies) Build(ctx context.Context, req driver.BuildRequest, progress func(driver.Progress)) (string, error) {
	if d.deadly.Load() {
		d.begun <- struct{}{}
		<-ctx.Done()
		return "", ctx.Err()
	}
	return d.Driver.Build(ctx, req, progress) //nolint:wrapcheck // A test's.
}

// die ends the agent as a panic or the kernel would: what is on record of its attempts
// stays as it is.
func (h *host) die() {
	h.t.Helper()
	dir := filepath.Join(h.config.RunDir, attemptsDir)
	left := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range entries {
		if left[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			h.t.Fatal(err)
		}
	}
	h.crash()
	for name, b := range left {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			h.t.Fatal(err)
		}
	}
}

// TestDeadlyGeneration: what kills the agent three times is left alone, and no other one.
func TestDeadlyGeneration(t *testing.T) {
	h := newHost(t)
	d := dies{deadly: &atomic.Bool{}, begun: make(chan struct{}, 10)}
	h.wrap = func(inner *bundledriver.Driver) driver.Driver { return dies{inner, d.deadly, d.begun} }
	h.start()
	good := h.confirmed(1, "good")
	d.deadly.Store(true)
	bad := h.publish(2, "bad", "")
	for range quarantine.Max {
		<-d.begun
		h.die()
		h.start()
	}
	p := h.coord.WaitReason(fleet.ReasonQuarantined)
	if p.State != fleet.StateHeld || p.Current != good || p.Highest != bad || p.Reason.Hint == "" {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("good")
	// Not by a restart in order either.
	h.crash()
	h.start()
	n := len(h.coord.Reports())
	h.coord.Wait("a report of the next agent", func() bool { return len(h.coord.Reports()) > n })
	h.coord.WaitReason(fleet.ReasonQuarantined)
	if len(d.begun) > 0 {
		t.Error("it was tried again")
	}
	// A person may have it tried again, and another generation needs nobody's word.
	d.deadly.Store(false)
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	h.coord.WaitState(fleet.StateConfirmed, bad)
	h.confirmed(3, "next")
}
