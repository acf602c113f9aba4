package agent

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/refusal"
)

// TestRollsBack breaks a generation in each way that must lead back.
func TestRollsBack(t *testing.T) {
	for _, c := range []struct {
		name, script string
		change       func(*host, *fleet.Generation)
		want         fleet.ReasonCode
	}{
		{
			name: "activation exits badly", script: "exit 1", want: fleet.ReasonActivationFailed,
		},
		{
			name: "activation hangs", script: "sleep 600", want: fleet.ReasonActivationHung,
			change: func(_ *host, g *fleet.Generation) {
				g.Policy.ActivationDeadline = fleet.Duration(300 * time.Millisecond)
			},
		},
		{
			name: "probe fails", want: fleet.ReasonProbeFailed,
			change: func(_ *host, g *fleet.Generation) {
				g.Probes[0].Contains = "what it never says"
				g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond)
			},
		},
		{
			name: "inconclusive", want: fleet.ReasonInconclusive,
			change: func(_ *host, g *fleet.Generation) {
				g.Probes = append(g.Probes, fleet.Probe{
					Name: "unsure", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 75"},
				})
				g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond)
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			good := h.confirmed(1, "good")
			bad := h.publish(2, "bad", c.script, func(g *fleet.Generation) {
				if c.change != nil {
					c.change(h, g)
				}
			})
			p := h.coord.WaitState(fleet.StateRolledBack, good)
			h.expectServing("good")
			if p.Reason.Code != c.want || len(p.Refused) != 1 || p.Refused[0] != bad || p.Highest != bad {
				t.Errorf("status: %+v", p)
			}

			// It is not tried again, neither now nor by the next agent.
			h.crash()
			h.start()
			n := len(h.coord.Reports())
			h.coord.Wait("a report of the next agent", func() bool { return len(h.coord.Reports()) > n })
			h.expectServing("good")
			if p := h.coord.WaitState(fleet.StateRolledBack, good); p.Reason.Code != c.want {
				t.Errorf("reason after restart: %+v", p.Reason)
			}
			if runs := runsIn(h.agent.runsDir(), fleet.System); len(runs) != 3 {
				t.Errorf("runs: %v, want three: a good activation, a bad one and its rollback", runs)
			}

			// A new number heals.
			h.confirmed(3, "healed")
		})
	}
}

func TestFirstGenerationRollsBackToNothing(t *testing.T) {
	h := newHost(t)
	h.start()
	h.publish(1, "bad", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, fleet.Ref{})
	h.expectServing("nothing\n")
	h.confirmed(2, "good")
}

// TestRetryWorksOnce: a signed document has a failed generation tried again,
// once, however often it is handed out.
func TestRetryWorksOnce(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(1, "good")
	bad := h.publish(2, "bad", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, good)
	attempts := func() (n int) {
		for _, tr := range h.coord.Transitions() {
			if tr.State == fleet.StateActivating && tr.Ref == bad {
				n++
			}
		}
		return n
	}
	h.coord.Loosen(h.fleet.SealRetry(bad.Digest))
	h.coord.Wait("a second attempt", func() bool { return attempts() == 2 })
	h.coord.WaitState(fleet.StateRolledBack, good)
	before := h.coord.Calls("GetDesired")
	h.coord.Loosen(h.fleet.SealRetry(bad.Digest)) // the same bytes: ed25519 has no randomness
	h.coord.Wait("another look", func() bool { return h.coord.Calls("GetDesired") > before })
	h.confirmed(3, "healed")
	if n := attempts(); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
}

// TestUnreachable loses the coordinator right after an activation began.
func TestUnreachable(t *testing.T) {
	lost := func(h *host, policy fleet.OnInconclusive) (good, next fleet.Ref) {
		h.start()
		good = h.confirmed(1, "good")
		gone := filepath.Join(t.TempDir(), "gone")
		next = h.publish(2, "next", gate(gone), verifyIn(400*time.Millisecond), func(g *fleet.Generation) {
			g.Policy.OnInconclusive = policy
		})
		waitLocal(t, h, fleet.StateActivating)
		h.coord.Refuse("Report", errors.New("gone"))
		open(t, gone)
		return good, next
	}
	t.Run("rolls back", func(t *testing.T) {
		h := newHost(t)
		good, _ := lost(h, "")
		waitLocal(t, h, fleet.StateRolledBack)
		h.coord.Refuse("Report", nil)
		if p := h.coord.WaitReason(fleet.ReasonUnreachable); p.State != fleet.StateRolledBack || p.Current != good {
			t.Errorf("status: %+v", p)
		}
		h.expectServing("good")
	})
	t.Run("keeps where policy says so", func(t *testing.T) {
		h := newHost(t)
		_, next := lost(h, fleet.InconclusiveKeep)
		waitKept(t, h)
		h.expectServing("next")
		h.coord.Refuse("Report", nil)
		h.coord.WaitState(fleet.StateConfirmed, next)
	})
	t.Run("a refusal is an answer", func(t *testing.T) {
		h := newHost(t)
		h.start()
		h.confirmed(1, "good")
		full := filepath.Join(t.TempDir(), "full")
		next := h.publish(2, "next", gate(full), verifyIn(5*time.Second))
		waitLocal(t, h, fleet.StateActivating)
		h.coord.Refuse("Report", refusal.New(codes.ResourceExhausted, fleet.Reason{Code: refusal.TooMany, Message: "the disk is full"}))
		open(t, full)
		if p := waitLocal(t, h, fleet.StateVerified); p.Current != next {
			t.Errorf("current: %v", p.Current)
		}
		h.coord.Refuse("Report", nil)
		h.coord.WaitState(fleet.StateConfirmed, next)
	})
	t.Run("keeps where the host was offline before", func(t *testing.T) {
		h := newHost(t)
		h.start()
		h.confirmed(1, "good")
		pause(t, h)
		next := h.publish(2, "next", "", verifyIn(400*time.Millisecond))
		h.coord.WaitReason(fleet.ReasonPaused)
		h.crash()
		h.coord.Stop()
		h.start()
		if err := h.client().Resume(t.Context()); err != nil {
			t.Fatal(err)
		}
		waitKept(t, h)
		h.expectServing("next")
		h.coord.Start()
		h.coord.WaitState(fleet.StateConfirmed, next)
	})
}

func pause(t *testing.T, h *host) {
	t.Helper()
	if err := h.client().Pause(t.Context(), "a test"); err != nil {
		t.Fatal(err)
	}
}

// waitLocal waits by the control socket, for when nothing is reported.
func waitLocal(t *testing.T, h *host, want fleet.State) control.Profile {
	t.Helper()
	return waitProfile(t, h, string(want), func(p control.Profile) bool { return p.State == want })
}

// waitKept waits for a generation that is held because the coordinator can't be
// reached; it may be held for something else before.
func waitKept(t *testing.T, h *host) {
	t.Helper()
	waitProfile(t, h, "kept", func(p control.Profile) bool {
		return p.State == fleet.StateHeld && p.Reason.Code == fleet.ReasonUnreachable
	})
}

func waitProfile(t *testing.T, h *host, what string, ok func(control.Profile) bool) control.Profile {
	t.Helper()
	c := h.client()
	limit := time.Now().Add(time.Minute)
	for time.Now().Before(limit) {
		st, err := c.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(st.Profiles) == 1 && ok(st.Profiles[0]) {
			return st.Profiles[0]
		}
		time.Sleep(10 * time.Millisecond) // polls; nothing depends on its length
	}
	t.Fatalf("the profile did not become %s", what)
	return control.Profile{}
}

func TestLocalRollBackAndRetry(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	if _, err := c.RollBack(t.Context(), "", fleet.Number{}); !errors.Is(err, control.ErrNotPossible) {
		t.Errorf("rolling back from nothing: %v", err)
	}
	first := h.confirmed(1, "one")
	second := h.confirmed(2, "two")
	// Without a coordinator: it is local.
	h.coord.Stop()
	to, err := c.RollBack(t.Context(), fleet.System, second.Number)
	if err != nil || to != (control.RolledBack{Target: first}) {
		t.Fatalf("RollBack: %v, %v; want %v", to, err, first)
	}
	p := waitLocal(t, h, fleet.StateRolledBack)
	// It went back, and nobody can tell whether that reaches anybody.
	if p.Reason.Code != fleet.ReasonRollbackUnverified || !strings.Contains(p.Reason.Message, "rolled back by") || p.Current != first || len(p.Refused) != 1 || p.Refused[0] != second {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("one")
	if _, err := c.Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "two again", func(p control.Profile) bool { return p.Current == second })
	h.expectServing("two")
	h.coord.Start()
	h.coord.WaitState(fleet.StateConfirmed, second)
	h.expectServing("two")
}

// TestRollBackLeaving: who names what to leave, and got no answer, can ask again
// at any moment, and goes back once.
func TestRollBackLeaving(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	h.confirmed(1, "one")
	second, third := h.confirmed(2, "two"), h.confirmed(3, "three")
	if _, err := c.RollBack(t.Context(), fleet.System, second.Number); !errors.Is(err, control.ErrNotPossible) || !strings.Contains(err.Error(), "1.2 does not run here: 1.3 does") {
		t.Errorf("leaving what does not run: %v", err)
	}
	if b, err := c.RollBack(t.Context(), fleet.System, third.Number); err != nil || b.Already || b.Target != second {
		t.Fatalf("leaving: %+v, %v", b, err)
	}
	for range 50 { // asked again while it begins, runs, and when it has ended
		if b, err := c.RollBack(t.Context(), fleet.System, third.Number); err != nil || !b.Already || b.Target != second {
			t.Fatalf("again: %+v, %v", b, err)
		}
		time.Sleep(5 * time.Millisecond) // spreads them; nothing depends on its length
	}
	if p := waitLocal(t, h, fleet.StateRolledBack); p.Current != second {
		t.Errorf("current: %v, want %v", p.Current, second)
	}
	if b, err := c.RollBack(t.Context(), fleet.System, third.Number); err != nil || !b.Already || b.Target != second {
		t.Fatalf("when back: %+v, %v", b, err)
	}
	h.expectServing("two")
	// One that was allowed again is left again.
	if _, err := c.Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	waitProfile(t, h, "forward", func(p control.Profile) bool { return p.Current == third && p.State == fleet.StateConfirmed })
	if b, err := c.RollBack(t.Context(), fleet.System, third.Number); err != nil || b.Already || b.Target != second {
		t.Errorf("leaving once more: %+v, %v", b, err)
	}
}

// TestConfirmedAgain: back to nothing, and the same generation once more, which
// was confirmed before.
func TestConfirmedAgain(t *testing.T) {
	h := newHost(t)
	h.start()
	c := h.client()
	first := h.confirmed(1, "one")
	if _, err := c.RollBack(t.Context(), fleet.System, fleet.Number{}); err != nil {
		t.Fatal(err)
	}
	waitLocal(t, h, fleet.StateRolledBack)
	if _, err := c.Retry(t.Context(), fleet.System); err != nil {
		t.Fatal(err)
	}
	if p := waitLocal(t, h, fleet.StateConfirmed); p.Current != first {
		t.Errorf("current: %v", p.Current)
	}
	h.expectServing("one")
}

// TestRollbackHasItsOwnDeadline: the way back takes longer than the generation
// that failed gives its own activation.
func TestRollbackHasItsOwnDeadline(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.publish(1, "one", "sleep 1.5")
	h.coord.WaitState(fleet.StateConfirmed, first)
	h.publish(2, "two", "sleep 60", func(g *fleet.Generation) {
		g.Policy.ActivationDeadline = fleet.Duration(500 * time.Millisecond)
	})
	p := waitLocal(t, h, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonActivationHung {
		t.Errorf("status: %+v", p)
	}
	h.expectServing("one")
}

func TestRevert(t *testing.T) {
	h := newHost(t)
	h.start()
	g1, blob1 := h.generation(1, "one", "")
	env1, first := h.fleet.Seal(g1)
	h.coord.Publish(env1, nil, blob1)
	h.coord.WaitState(fleet.StateConfirmed, first)
	second := h.publish(2, "two", "", func(g *fleet.Generation) { g.RevertTo = []fleet.Ref{first} })
	h.coord.WaitState(fleet.StateConfirmed, second)
	h.coord.Revert(env1, nil)
	p := h.coord.WaitState(fleet.StateConfirmed, first)
	if p.Highest != second || len(p.Refused) != 1 || p.Refused[0] != second {
		t.Errorf("highest: %v, refused: %v", p.Highest, p.Refused)
	}
	h.expectServing("one")

	// Out of the revert set of what came since.
	third := h.confirmed(3, "three")
	h.coord.Revert(env1, nil)
	h.coord.WaitReason("not-in-revert-set")
	h.coord.WaitState(fleet.StateConfirmed, third)
	h.expectServing("three")
}

// TestBundlesOwnCheck: a bundle's own check counts like a probe.
func TestBundlesOwnCheck(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(1, "good")
	src, blob := h.fleet.Bundle(map[string]string{
		"activate": "#!/bin/sh\nexit 0\n",
		"check":    "#!/bin/sh\necho \"$FLEET_STATE is not well\"\nexit 1\n",
	})
	g := h.fleet.Generation(2, src)
	g.Policy.VerifyDeadline = fleet.Duration(300 * time.Millisecond)
	env, _ := h.fleet.Seal(g)
	h.coord.Publish(env, nil, blob)
	p := h.coord.WaitState(fleet.StateRolledBack, good)
	if p.Reason.Code != fleet.ReasonProbeFailed || !strings.Contains(p.Reason.Message, "is not well") {
		t.Errorf("reason: %+v", p.Reason)
	}
	h.expectServing("good")
}
