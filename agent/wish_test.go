package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestWishSurvivesFailure: a person's rollback that can't begin yet is begun
// later.
func TestWishSurvivesFailure(t *testing.T) {
	h := newHost(t)
	h.start()
	first, second := h.confirmed(1, "one"), h.confirmed(2, "two")
	st := h.agent.journal.State()
	path := st.Profile(fleet.System).LastGood.Path
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "unable", func(p control.Profile) bool {
		return p.Current == second && p.Reason.Code == fleet.ReasonInternal
	})
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "back", func(p control.Profile) bool { return p.Current == first && p.State == fleet.StateRolledBack })
}

// TestWishIsOnRecord: a rollback that was answered is carried out by the next
// agent, where this one ends before it began.
func TestWishIsOnRecord(t *testing.T) {
	h := newHost(t)
	h.start()
	first, second := h.confirmed(1, "one"), h.confirmed(2, "two")
	st := h.agent.journal.State()
	path := st.Profile(fleet.System).LastGood.Path
	// So that it can't begin before the end.
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	h.crash()
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	h.start()
	waitProfile(t, h, "back", func(p control.Profile) bool { return p.Current == first && p.State == fleet.StateRolledBack })
	if st := h.agent.journal.State(); st.Profiles[fleet.System].Asked != nil {
		t.Error("the wish is still there")
	}
	// It was about what ran then.
	if _, err := h.client().Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "forward again", func(p control.Profile) bool { return p.Current == second && p.State == fleet.StateConfirmed })
}

// TestPauseBeforeActivation: a pause that was answered keeps an activation from
// beginning that was decided just before.
func TestPauseBeforeActivation(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	pause(t, h)
	second := h.publish(2, "two", "")
	waitProfile(t, h, "held", func(p control.Profile) bool { return p.Reason.Code == fleet.ReasonPaused && p.Desired == second })
	w := h.agent.worker(fleet.System)
	if err := w.activate(t.Context(), reconcile.Plan{Step: reconcile.StepActivate, Target: second}); err != nil {
		t.Error(err)
	}
	st := h.agent.journal.State()
	if p := st.Profile(fleet.System); p.Phase == journal.PhaseActivating || p.Activation != nil {
		t.Errorf("it began: %s", p.Phase)
	}
}

// TestRetryDuringRevert: a signed retry that comes while the host is on its way
// back is not used up for nothing.
func TestRetryDuringRevert(t *testing.T) {
	h := newHost(t)
	h.start()
	door := filepath.Join(t.TempDir(), "door")
	open(t, door)
	g, blob := h.generation(1, "one", gate(door))
	firstEnv, first := h.fleet.Seal(g)
	h.coord.Publish(firstEnv, nil, blob)
	h.coord.WaitState(fleet.StateConfirmed, first)
	g, blob = h.generation(2, "two", "")
	g.RevertTo = []fleet.Ref{first}
	secondEnv, second := h.fleet.Seal(g)
	h.coord.Publish(secondEnv, nil, blob)
	h.coord.WaitState(fleet.StateConfirmed, second)
	if err := os.Remove(door); err != nil {
		t.Fatal(err)
	}
	h.coord.Revert(firstEnv, nil)
	waitLocal(t, h, fleet.StateActivating)
	// What a coordinator does on fleetctl retry: the document, and no revert any
	// more.
	h.coord.Publish(secondEnv, nil)
	h.coord.Loosen(h.fleet.SealRetry(second.Digest))
	h.coord.Wait("the document", func() bool { return len(h.agent.journal.State().Loosened) > 0 })
	open(t, door)
	waitProfile(t, h, "forward again", func(p control.Profile) bool {
		return p.Current == second && p.State == fleet.StateConfirmed
	})
	h.expectServing("two")
}
