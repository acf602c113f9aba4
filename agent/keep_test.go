package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/agenttest"
	"github.com/cameronraysmith/fleet/agent/internal/bundledriver"
	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestRetryAfterRestartOffline: what was rolled back is there for a retry as
// long as nothing higher was accepted, however often agents start and clear
// away, and without a coordinator.
func TestRetryAfterRestartOffline(t *testing.T) {
	h := newHost(t)
	h.start()
	first, second := h.confirmed(1, "one"), h.confirmed(2, "two")
	h.coord.Stop()
	if _, err := h.client().RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "rolled back", func(p control.Profile) bool {
		return p.State == fleet.StateRolledBack && p.Current == first
	})
	h.crash()
	h.start()
	c := h.client()
	h.agent.prune(t.Context()) // as when another profile settles
	if _, err := c.Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "two again", func(p control.Profile) bool { return p.Current == second })
	h.expectServing("two")
	h.coord.Start()
	h.coord.WaitState(fleet.StateConfirmed, second)
	h.confirmed(3, "three")
	st := h.agent.journal.State()
	if p := st.Profile(fleet.System); p.Undone.Path != "" {
		t.Errorf("still kept: %+v", p.Undone)
	}
}

// TestPruneWhileBuilding: another profile may settle between the build of a
// generation and its record.
func TestPruneWhileBuilding(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	src, blob := h.service("two", "")
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	h.agent.building.RLock()
	path, err := h.agent.drivers[bundledriver.Name].Build(t.Context(), driver.BuildRequest{
		Profile: fleet.System, Source: src, Blobs: map[fleet.Digest]string{src.Bundle.Digest: file},
	}, nil)
	if err == nil {
		h.agent.prune(t.Context())
		_, err = os.Stat(path)
	}
	h.agent.building.RUnlock()
	if err != nil {
		t.Errorf("what was just built is gone: %v", err)
	}
	h.agent.prune(t.Context())
	if _, err := os.Stat(path); err == nil {
		t.Error("what nobody needs is still there")
	}
}

// slowHome is a driver of homes whose builds take until they are let go.
type slowHome struct {
	driver.Driver
	began, letGo chan struct{}
}

func (s slowHome) Build(context.Context, driver.BuildRequest, func(driver.Progress)) (string, error) {
	close(s.began)
	<-s.letGo
	return "", errors.New("it came to nothing")
}

// TestPruneBesideAHome: a user's nix holds up nobody who clears away.
func TestPruneBesideAHome(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	w := h.agent.worker("home/ann")
	s := slowHome{began: make(chan struct{}), letGo: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		h.agent.building.RLock()
		defer h.agent.building.RUnlock()
		_, err := w.buildBeside(t.Context(), s, driver.BuildRequest{Profile: "home/ann", Source: fleet.Source{Driver: fleet.DriverHome}})
		if h.agent.building.TryLock() {
			t.Error("what follows the build is not kept from who clears away")
		}
		done <- err
	}()
	<-s.began
	h.agent.cluttered.Store(true)
	h.agent.prune(t.Context())
	if h.agent.cluttered.Load() {
		t.Error("nothing was cleared away")
	}
	close(s.letGo)
	if err := <-done; err == nil {
		t.Error("it was built")
	}
}

// TestRunsAreNewWhileTimeStandsStill: behind the newest signed time the agent's
// clock stands still. A second attempt is still a run of its own, and not the
// first one's result.
func TestRunsAreNewWhileTimeStandsStill(t *testing.T) {
	h := newHost(t)
	offset := newOffset()
	h.config.Now = offset.now
	h.start()
	good := h.confirmed(1, "good")
	h.crash()
	offset.add(-10 * 365 * 24 * time.Hour)
	h.start()
	door := filepath.Join(t.TempDir(), "door")
	bad := h.publish(2, "bad at first", "[ -e '"+door+"' ]")
	h.coord.WaitState(fleet.StateRolledBack, good)
	open(t, door)
	h.coord.Loosen(h.fleet.SealRetry(bad.Digest))
	h.coord.WaitState(fleet.StateConfirmed, bad)
	h.expectServing("bad at first")
}

// TestEnrolAfterAnotherAttempt: an attempt that got as far as the trust root,
// of a fleet that was then made anew, does not stand in the way.
func TestEnrolAfterAnotherAttempt(t *testing.T) {
	h := newHost(t)
	roots := filepath.Join(h.config.StateDir, desiredDir, "roots")
	if err := os.MkdirAll(roots, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(roots, "1.json"), agenttest.NewFleet(t).Roots[0], 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.confirmed(1, "one")
}

// TestUndoneMakesRoom: what is kept for a retry is given back before the next
// generation is fetched: both may not fit.
func TestUndoneMakesRoom(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(1, "good")
	h.publish(2, "bad", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, good)
	st := h.agent.journal.State()
	undone := st.Profile(fleet.System).Undone.Path
	h.makesRoom(undone, 3)
}

// makesRoom expects that a path is there until generation seq is fetched, and then no
// longer.
func (h *host) makesRoom(path string, seq uint64) {
	h.t.Helper()
	if _, err := os.Stat(path); err != nil {
		h.t.Fatalf("not kept: %v", err)
	}
	release := h.coord.Hold("GetBlob")
	defer release()
	calls := h.coord.Calls("GetBlob")
	h.publish(seq, "next", "")
	h.coord.Wait("fetching", func() bool { return h.coord.Calls("GetBlob") > calls })
	if _, err := os.Stat(path); err == nil {
		h.t.Error("still there while the next one is fetched")
	}
}

// TestKeptMakesRoom: so does what ran before a generation that was kept unverified, and
// is superseded.
func TestKeptMakesRoom(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	h.confirmed(2, "two")
	st := h.agent.journal.State()
	first := st.Profile(fleet.System).LastGood.Path
	kept := h.publish(3, "three", "", verifyIn(100*time.Millisecond), never, func(g *fleet.Generation) {
		g.Policy.OnInconclusive = fleet.InconclusiveKeep
	})
	h.coord.Wait("kept", func() bool {
		st := h.agent.journal.State()
		p := st.Profile(fleet.System)
		return p.Current.Is(kept) && p.Phase == journal.PhaseActivated
	})
	h.makesRoom(first, 4)
}

// TestRetention: verified generations stay built by number and by age, as the policy
// says; what runs and what it would go back to in any case.
func TestRetention(t *testing.T) {
	h := newHost(t)
	clock := newOffset()
	h.config.Now = clock.now
	h.start()
	kept := map[uint64]string{}
	publish := func(seq uint64, count uint32, age time.Duration, want ...uint64) {
		t.Helper()
		ref := h.publish(seq, fmt.Sprint(seq), "", func(g *fleet.Generation) {
			g.Policy.KeepGenerations, g.Policy.KeepFor = count, fleet.Duration(age)
		})
		h.coord.WaitState(fleet.StateConfirmed, ref)
		st := h.agent.journal.State()
		kept[seq] = st.Profile(fleet.System).Current.Path
		var built []uint64
		for range 1000 {
			built = nil
			for seq, path := range kept {
				if _, err := os.Stat(path); err == nil {
					built = append(built, seq)
				}
			}
			slices.Sort(built)
			if slices.Equal(built, want) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Errorf("with %d, %d and %s there are %v, want %v", seq, count, age, built, want)
	}
	publish(1, 3, 0, 1)
	publish(2, 3, 0, 1, 2)
	publish(3, 3, 0, 1, 2, 3)
	publish(4, 3, 0, 2, 3, 4)
	publish(5, 0, time.Hour, 2, 3, 4, 5)
	clock.add(90 * time.Minute)
	publish(6, 1, time.Hour, 5, 6)
	publish(7, 0, 0, 6, 7)
}
