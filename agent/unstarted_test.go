package agent

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/release"
)

// unstartable is a host whose agent can't start a run until the function that
// is returned was called.
func unstartable(h *host) (mend func()) {
	h.t.Helper()
	exe := h.config.Runner[0]
	runner := filepath.Join(shortTempDir(h.t), "runner")
	h.config.Runner = []string{runner, runAction}
	return func() {
		h.t.Helper()
		if err := os.Symlink(exe, runner); err != nil {
			h.t.Fatal(err)
		}
	}
}

// intended is a host that runs generation 1, and has the intent to activate
// generation 2 in its journal, which no run can be started for.
func intended(t *testing.T, h *host) (good, next fleet.Ref, mend func()) {
	t.Helper()
	h.start()
	good = h.confirmed(1, "good")
	h.crash()
	mend = unstartable(h)
	h.start()
	next = h.publish(2, "next", "")
	waitIntent(t, h)
	return good, next, mend
}

func waitIntent(t *testing.T, h *host) {
	t.Helper()
	waitLocal(t, h, fleet.StateActivating)
	st := h.agent.journal.State()
	if p := st.Profile(fleet.System); p.Phase != journal.PhaseActivating {
		t.Fatalf("the journal says %s", p.Phase)
	}
}

// expectUntouched checks that the generation never began, and is not to blame.
func expectUntouched(t *testing.T, h *host, good, next fleet.Ref) {
	t.Helper()
	h.expectServing("good")
	st := h.agent.journal.State()
	p := st.Profile(fleet.System)
	if _, refused := p.IsRefused(next.Digest); refused || len(p.Interrupted) > 0 || p.Activation != nil || p.Current.Ref != good {
		t.Errorf("profile: %+v", p)
	}
	if !p.Staged.Is(next) {
		t.Errorf("staged: %+v", p.Staged)
	}
	for _, s := range []fleet.State{fleet.StateVerifying, fleet.StateRollingBack, fleet.StateRolledBack} {
		if n := count(h, s, next); n != 0 {
			t.Errorf("it was %s %d times", s, n)
		}
	}
}

// TestExpiredBeforeItsStart: between the intent and the start the agent crashed,
// and came back when the document had expired.
func TestExpiredBeforeItsStart(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	h.config.Now = offset.now
	good, next, mend := intended(t, h)
	h.crash()
	mend()
	offset.add(48 * time.Hour) // the host identity lives a week
	h.start()
	p := h.coord.WaitReason(release.ErrExpired.Code)
	if p.Current != good || p.State != fleet.StateStaged {
		t.Errorf("status: %+v", p)
	}
	expectUntouched(t, h, good, next)
	if !slices.ContainsFunc(h.coord.Transitions(), func(tr fleet.Transition) bool {
		return tr.State == fleet.StateStaged && tr.Ref == next && tr.Reason.Code == release.ErrExpired.Code
	}) {
		t.Errorf("nobody was told why: %+v", h.coord.Transitions())
	}
	third := h.publish(3, "third", "", func(g *fleet.Generation) { g.Expires = g.Issued.Add(96 * time.Hour) })
	h.coord.WaitState(fleet.StateConfirmed, third)
	h.expectServing("third")
}

// TestKeyGoneBeforeItsStart: the key that signed it left the trust root while
// its run could not be started.
func TestKeyGoneBeforeItsStart(t *testing.T) {
	h := newHost(t)
	good, next, mend := intended(t, h)
	old := h.fleet.Release
	h.fleet.Root.Roles[release.RoleRelease] = release.RoleKeys{}
	h.fleet.Release = h.fleet.AddKey(release.RoleRelease)
	h.fleet.NextRoot()
	g, blob := h.generation(2, "next", "")
	env, _ := h.fleet.Seal(g, old)
	h.coord.Publish(env, nil, blob)
	p := h.coord.WaitReason(release.ErrUnknownKey.Code)
	if p.Current != good {
		t.Errorf("status: %+v", p)
	}
	mend()
	expectUntouched(t, h, good, next)
	h.confirmed(3, "third")
}

// TestPausedBeforeItsStart: a pause comes while a run can't be started, more
// often than an interrupted activation is tried; lifted, the same generation is
// activated.
func TestPausedBeforeItsStart(t *testing.T) {
	h := newHost(t)
	good, next, mend := intended(t, h)
	for range journal.MaxInterrupted + 1 {
		pause(t, h)
		waitLocal(t, h, fleet.StateHeld)
		h.coord.WaitReason(fleet.ReasonPaused)
		expectUntouched(t, h, good, next)
		if err := h.client().Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitIntent(t, h)
	}
	mend()
	h.coord.WaitState(fleet.StateConfirmed, next)
	h.expectServing("next")
}

// TestSupersededBeforeItsStart: a newer generation need not wait for one that
// never began.
func TestSupersededBeforeItsStart(t *testing.T) {
	h := newHost(t)
	_, next, mend := intended(t, h)
	third := h.publish(3, "third", "")
	h.coord.Wait("the newer one", func() bool { return count(h, fleet.StateActivating, third) > 0 })
	mend()
	h.coord.WaitState(fleet.StateConfirmed, third)
	h.expectServing("third")
	if n := count(h, fleet.StateVerifying, next); n != 0 {
		t.Errorf("the older one was activated %d times", n)
	}
}
