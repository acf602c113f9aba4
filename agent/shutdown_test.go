package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/execute"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// TestShutdownIsNoBlame: an orderly shutdown ends runner and program by
// SIGTERM, in no order. The generation is tried again.
func TestShutdownIsNoBlame(t *testing.T) {
	for name, kill := range map[string]string{
		"runner first":  "kill -TERM $PPID; sleep 600",
		"program first": "(kill -TERM $PPID) & kill -TERM $$; sleep 600",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			h.confirmed(1, "good")
			once := filepath.Join(t.TempDir(), "once")
			next := h.publish(2, "next", "if [ ! -e '"+once+"' ]; then touch '"+once+"'; "+kill+"; fi")
			p := waitProfile(t, h, "settled", func(p control.Profile) bool {
				return p.State == fleet.StateConfirmed && p.Current == next || len(p.Refused) > 0
			})
			if p.Current != next {
				t.Errorf("blamed: %+v", p)
			}
		})
	}
}

// TestVerifiedInAShutdown: what does not prove to work while the host is shut down says
// nothing; once it is not any more, that counts.
func TestVerifiedInAShutdown(t *testing.T) {
	h := newHost(t)
	var stopping atomic.Bool
	looks := make(chan struct{}, 1)
	h.config.Stopping = func(context.Context) bool {
		poke(looks)
		return stopping.Load()
	}
	h.start()
	first := h.confirmed(1, "one")
	stopping.Store(true)
	second := h.publish(2, "two", "", verifyIn(100*time.Millisecond), func(g *fleet.Generation) {
		g.Probes[0].Contains = "what it never says"
	})
	for range 3 {
		select {
		case <-looks:
		case <-time.After(time.Minute):
			t.Fatal("nobody asks whether the host is shut down")
		}
	}
	if p := waitProfile(t, h, "verifying", func(p control.Profile) bool { return p.Current == second }); p.State != fleet.StateVerifying || len(p.Refused) > 0 {
		t.Errorf("blamed: %+v", p)
	}
	stopping.Store(false)
	if p := waitLocal(t, h, fleet.StateRolledBack); p.Current != first {
		t.Errorf("rolled back to %v, want %v", p.Current, first)
	}
}

// TestShutdownEndsRunsOfItsOwn: a runner that is no service is ended with the agent where
// the host is shut down, and else goes on.
func TestShutdownEndsRunsOfItsOwn(t *testing.T) {
	for name, shutdown := range map[string]bool{"shutdown": true, "replaced": false} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			var stopping atomic.Bool
			h.config.Stopping = func(context.Context) bool { return stopping.Load() }
			h.start()
			h.confirmed(1, "one")
			gate := filepath.Join(t.TempDir(), "gate")
			open(t, gate)
			next := h.publish(2, "two", "while [ -e '"+gate+"' ]; do sleep 0.01; done")
			waitLocal(t, h, fleet.StateActivating)
			id := waitRun(t, h)
			stopping.Store(shutdown)
			h.crash()
			if st, err := h.agent.executor.Status(id); err != nil || (st.Phase == execute.PhaseRunning) == shutdown {
				t.Errorf("%s: %+v, %v", id, st, err)
			}
			if err := os.Remove(gate); err != nil {
				t.Fatal(err)
			}
			stopping.Store(false)
			h.start()
			h.coord.WaitState(fleet.StateConfirmed, next)
		})
	}
}

// waitRun waits until an activation runs, and names it.
func waitRun(t *testing.T, h *host) string {
	t.Helper()
	for limit := time.Now().Add(time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		for _, id := range runsIn(h.agent.runsDir(), fleet.System) {
			if st, err := h.agent.executor.Status(id); err == nil && st.Phase == execute.PhaseRunning {
				return id
			}
		}
	}
	t.Fatal("nothing runs")
	return ""
}
