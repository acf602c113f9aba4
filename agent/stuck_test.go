package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// stuck is a host whose rollback from second to first failed for a while.
func stuck(t *testing.T) (h *host, firstEnv []byte, first, second fleet.Ref) {
	t.Helper()
	h = newHost(t)
	h.start()
	broken := filepath.Join(t.TempDir(), "broken")
	g, blob := h.generation(1, "good", "test ! -e '"+broken+"'")
	firstEnv, first = h.fleet.Seal(g)
	h.coord.Publish(firstEnv, nil, blob)
	h.coord.WaitState(fleet.StateConfirmed, first)
	second = h.publish(2, "bad", "touch '"+broken+"'", verifyIn(300*time.Millisecond), func(g *fleet.Generation) {
		g.Probes[0].Contains = "what it never says"
		g.RevertTo = []fleet.Ref{first}
	})
	h.coord.WaitReason(fleet.ReasonRollbackFailed)
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	return h, firstEnv, first, second
}

// TestStuckThenBadAgain: after a failed rollback the next failure leads to
// last-good, not to what failed before.
func TestStuckThenBadAgain(t *testing.T) {
	h, _, first, _ := stuck(t)
	h.publish(3, "bad too", "exit 1")
	if p := waitLocal(t, h, fleet.StateRolledBack); p.Current != first {
		t.Errorf("rolled back to %v, want %v", p.Current, first)
	}
	h.expectServing("good")
}

// TestStuckThenRetry: what was never verified is not settled, though it is what
// is desired; a retry tries it again, as the hint says.
func TestStuckThenRetry(t *testing.T) {
	h, _, _, second := stuck(t)
	before := count(h, fleet.StateActivating, second)
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	verifying := count(h, fleet.StateVerifying, second)
	h.coord.Wait("another attempt that runs", func() bool { return count(h, fleet.StateVerifying, second) > verifying })
	if n := count(h, fleet.StateActivating, second) - before; n != 1 {
		t.Errorf("it was activated %d times", n)
	}
}

// TestStuckThenRevertAndRetry: the retry is of what the host is stuck on, also
// where something else is desired by now.
func TestStuckThenRevertAndRetry(t *testing.T) {
	h, firstEnv, first, _ := stuck(t)
	h.coord.Revert(firstEnv, nil)
	waitProfile(t, h, "sent back", func(p control.Profile) bool { return p.Desired == first })
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "back", func(p control.Profile) bool { return p.Current == first && p.State == fleet.StateConfirmed })
	h.expectServing("good")
}

// unsureWhile is a probe that says nothing while a file is there.
func unsureWhile(path string) []fleet.Probe {
	return []fleet.Probe{{
		Name: "unsure", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "test ! -e '" + path + "' || exit 75"},
	}}
}

// TestKeptRevertGivesWay: a generation that the host was sent back to, and that
// is kept unverified although it was verified once, gives way to a newer one.
func TestKeptRevertGivesWay(t *testing.T) {
	h := newHost(t)
	h.start()
	unsure := filepath.Join(t.TempDir(), "unsure")
	g, blob := h.generation(1, "one", "")
	g.Policy.OnInconclusive = fleet.InconclusiveKeep
	g.Policy.VerifyDeadline = fleet.Duration(400 * time.Millisecond)
	g.Probes = unsureWhile(unsure)
	env, first := h.fleet.Seal(g)
	h.coord.Publish(env, nil, blob)
	h.coord.WaitState(fleet.StateConfirmed, first)
	second := h.publish(2, "two", "", func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{first} })
	h.coord.WaitState(fleet.StateConfirmed, second)
	open(t, unsure)
	h.coord.Revert(env, nil)
	waitProfile(t, h, "kept", func(p control.Profile) bool { return p.Current == first && p.State == fleet.StateHeld })
	third := h.publish(3, "three", "")
	h.coord.WaitState(fleet.StateConfirmed, third)
}

// TestKeptThenRevertFails: half a way back to where the host came from is not
// undone by doing nothing.
func TestKeptThenRevertFails(t *testing.T) {
	h := newHost(t)
	h.start()
	dir := t.TempDir()
	broken, unsure := filepath.Join(dir, "broken"), filepath.Join(dir, "unsure")
	g, blob := h.generation(1, "one", "test ! -e '"+broken+"'")
	env, first := h.fleet.Seal(g)
	h.coord.Publish(env, nil, blob)
	h.coord.WaitState(fleet.StateConfirmed, first)
	open(t, unsure)
	second := h.publish(2, "two", "", verifyIn(400*time.Millisecond), func(g *fleet.Generation) {
		g.RevertTo = []fleet.Ref{first}
		g.Policy.OnInconclusive = fleet.InconclusiveKeep
		g.Probes = unsureWhile(unsure)
	})
	waitProfile(t, h, "kept", func(p control.Profile) bool { return p.Current == second && p.State == fleet.StateHeld })
	open(t, broken)
	h.coord.Revert(env, nil)
	p := waitProfile(t, h, "ended", func(p control.Profile) bool {
		return p.State == fleet.StateRolledBack || p.State == fleet.StateFailed
	})
	if p.State != fleet.StateFailed || p.Reason.Code != fleet.ReasonRollbackFailed {
		t.Errorf("said to be at %v: %+v", p.Current, p)
	}
}

// TestVerificationThatCannotBegin ends at the deadline too.
func TestVerificationThatCannotBegin(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	h.publish(2, "two", `chmod u+w "$FLEET_BUNDLE"; rm -f "$FLEET_BUNDLE/activate"`, verifyIn(300*time.Millisecond))
	if p := waitLocal(t, h, fleet.StateRolledBack); p.Current != first {
		t.Errorf("rolled back to %v, want %v", p.Current, first)
	}
	h.expectServing("one")
}
