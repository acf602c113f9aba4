package agent

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestWhatVerificationWaitsFor is in the status, here and at the coordinator.
func TestWhatVerificationWaitsFor(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	door := filepath.Join(t.TempDir(), "door")
	second := h.publish(2, "two", "", verifyIn(time.Minute), func(g *fleet.Generation) {
		g.Probes = append(g.Probes, fleet.Probe{
			Name: "slow", Kind: fleet.ProbeExec, Interval: fleet.Duration(20 * time.Millisecond),
			Argv: []string{"/bin/sh", "-c", "test -e '" + door + "' || { echo still warming up; exit 1; }"},
		})
	})
	p := h.coord.WaitReason(fleet.ReasonVerifying)
	if p.State != fleet.StateVerifying || p.Current != second {
		t.Errorf("reported: %+v", p)
	}
	h.coord.Wait("what the probe says", func() bool {
		m := h.coord.WaitReason(fleet.ReasonVerifying).Reason.Message
		return strings.Contains(m, `probe "slow" (exit code 1: still warming up), until `) && !strings.Contains(m, "coordinator")
	})
	waitProfile(t, h, "the same", func(p control.Profile) bool {
		return p.State == fleet.StateVerifying && strings.Contains(p.Reason.Message, "still warming up")
	})
	open(t, door)
	h.coord.WaitState(fleet.StateConfirmed, second)

	gone := filepath.Join(t.TempDir(), "gone")
	third := h.publish(3, "three", gate(gone), verifyIn(time.Minute))
	waitLocal(t, h, fleet.StateActivating)
	h.coord.Refuse("Report", errors.New("gone"))
	open(t, gone)
	waitProfile(t, h, "unreached", func(p control.Profile) bool {
		return p.State == fleet.StateVerifying && strings.HasPrefix(p.Reason.Message, "waits for the coordinator, over a new connection, until ")
	})
	h.coord.Refuse("Report", nil)
	h.coord.WaitState(fleet.StateConfirmed, third)
}
