package agent

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/reconcile"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// gate is a script line that waits for a file, so that a test decides when an
// activation goes on.
func gate(path string) string {
	return "while [ ! -e '" + path + "' ]; do sleep 0.02; done"
}

func open(t *testing.T, gate string) {
	t.Helper()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCrashInEachPhase replaces the agent in each phase of an activation: the
// next one goes on where the journal says.
func TestCrashInEachPhase(t *testing.T) {
	for _, c := range []struct {
		name string
		// hold is a method whose calls wait until the new agent runs.
		hold   string
		script bool
		until  fleet.State
	}{
		{name: "fetching", hold: "GetBlob", until: fleet.StateFetching},
		{name: "activating", script: true, until: fleet.StateActivating},
		{name: "verifying", hold: "Report", until: fleet.StateVerifying},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			h.confirmed(1, "good")
			release := func() {}
			if c.hold != "" {
				release = h.coord.Hold(c.hold)
			}
			t.Cleanup(func() { release() })
			door := filepath.Join(t.TempDir(), "door")
			script := ""
			if c.script {
				script = gate(door)
			}
			next := h.publish(2, "next", script)
			waitLocal(t, h, c.until)
			h.crash()
			h.start()
			release()
			open(t, door)
			h.coord.WaitState(fleet.StateConfirmed, next)
			h.expectServing("next")
			if n := count(h, fleet.StateActivating, next); n != 1 {
				t.Errorf("activated %d times", n)
			}
		})
	}
}

func count(h *host, s fleet.State, r fleet.Ref) (n int) {
	for _, tr := range h.coord.Transitions() {
		if tr.State == s && tr.Ref == r {
			n++
		}
	}
	return n
}

// TestActivationEndsWhileNoAgentRuns: the runner goes on alone, and the next
// agent takes its result.
func TestActivationEndsWhileNoAgentRuns(t *testing.T) {
	for _, c := range []struct {
		name, end string
		want      fleet.State
	}{
		{"well", "", fleet.StateConfirmed},
		{"badly", "exit 3", fleet.StateRolledBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.start()
			good := h.confirmed(1, "good")
			door := filepath.Join(t.TempDir(), "door")
			next := h.publish(2, "next", gate(door)+"\n"+c.end)
			waitLocal(t, h, fleet.StateActivating)
			h.crash()
			open(t, door)
			h.start()
			if c.want == fleet.StateConfirmed {
				h.coord.WaitState(c.want, next)
				return
			}
			h.coord.WaitState(c.want, good)
			h.expectServing("good")
		})
	}
}

// TestRunnerDies: nobody knows how far the activation came, so the host goes
// back; the generation is not to blame, and is tried again, but not for ever.
func TestRunnerDies(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(1, "good")
	// $PPID is the runner: it kills its own like a power cut would.
	next := h.publish(2, "next", "kill -9 $PPID; sleep 600")
	h.coord.Wait("three attempts", func() bool { return count(h, fleet.StateRolledBack, next) == journal.MaxInterrupted })
	p := h.coord.WaitState(fleet.StateRolledBack, good)
	if p.Reason.Code != fleet.ReasonActivationUnknown {
		t.Errorf("reason: %+v", p.Reason)
	}
	h.expectServing("good")
	h.confirmed(3, "healed")
	if n := count(h, fleet.StateActivating, next); n != journal.MaxInterrupted {
		t.Errorf("%d attempts", n)
	}
}

// TestRollbackFailsToo: bounded attempts, then the host says that a person is
// needed; a new generation leads out.
func TestRollbackFailsToo(t *testing.T) {
	h := newHost(t)
	h.start()
	broken := filepath.Join(t.TempDir(), "broken")
	first := h.publish(1, "good", "test ! -e '"+broken+"'")
	h.coord.WaitState(fleet.StateConfirmed, first)
	h.publish(2, "bad", "touch '"+broken+"'; exit 1")
	p := h.coord.WaitReason(fleet.ReasonRollbackFailed)
	if p.State != fleet.StateFailed {
		t.Errorf("state: %s", p.State)
	}
	if n := len(runsIn(h.agent.runsDir(), fleet.System)); n != 2+reconcile.MaxRollBackAttempts {
		t.Errorf("%d runs, want two activations and %d rollbacks", n, reconcile.MaxRollBackAttempts)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	h.confirmed(3, "healed")
}

func TestObserve(t *testing.T) {
	t.Run("by policy", func(t *testing.T) {
		h := newHost(t)
		h.start()
		ref := h.publish(1, "one", "", func(g *fleet.Generation) { g.Policy.Mode = fleet.ModeObserve })
		p := h.coord.WaitReason(fleet.ReasonObserve)
		if p.Highest != ref || !p.Current.IsZero() || p.State != fleet.StateHeld {
			t.Errorf("status: %+v", p)
		}
		h.expectServing("nothing\n")
		// Signed, so that a coordinator alone can't.
		h.confirmed(2, "two")
	})
	t.Run("by the host", func(t *testing.T) {
		h := newHost(t)
		h.config.Observe = true
		h.start()
		h.publish(1, "one", "")
		h.coord.WaitReason(fleet.ReasonObserve)
		if rs := h.coord.Reports(); rs[len(rs)-1].Mode != fleet.ModeObserve {
			t.Errorf("mode: %s", rs[len(rs)-1].Mode)
		}
		h.expectServing("nothing\n")
	})
}

func TestPauseSurvivesRestart(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "one")
	pause(t, h)
	second := h.publish(2, "two", "")
	p := h.coord.WaitReason(fleet.ReasonPaused)
	if p.Current != first || p.State != fleet.StateHeld {
		t.Errorf("status: %+v", p)
	}
	h.crash()
	h.start()
	st, err := h.client().Status(t.Context())
	if err != nil || st.Paused != "a test" {
		t.Fatalf("status after restart: %+v, %v", st, err)
	}
	h.expectServing("one")
	if err := h.client().Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.coord.WaitState(fleet.StateConfirmed, second)
}

func TestSecondAgentOnSameState(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	if _, err := New(h.agent.config); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("second agent: %v", err)
	}
	// Another state directory, but the same run directory.
	other := newHostBeside(t)
	other.config.RunDir = h.config.RunDir
	a, err := other.open()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); !errors.Is(err, control.ErrInUse) {
		t.Errorf("agent on the same run directory: %v", err)
	}
	h.confirmed(2, "two")
}

// TestStaleSocket: a socket that a killed agent left is replaced.
func TestStaleSocket(t *testing.T) {
	h := newHost(t)
	if err := os.MkdirAll(h.config.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: control.SocketPath(h.config.RunDir)}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Close(fd); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.confirmed(1, "one")
	fi, err := os.Stat(control.SocketPath(h.config.RunDir))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi.Mode(), err)
	}
}

// TestNewerCancelsFetch: a newer generation ends the fetch of an older one.
func TestNewerCancelsFetch(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	release := h.coord.Hold("GetBlob")
	defer release()
	second := h.publish(2, "two", "")
	h.coord.Wait("the fetch", func() bool { return h.coord.Calls("GetBlob") == 2 })
	third := h.publish(3, "three", "")
	// The held call ends only by its caller's wish: then a second one comes.
	h.coord.Wait("the next fetch", func() bool { return h.coord.Calls("GetBlob") == 3 })
	release()
	h.coord.WaitState(fleet.StateConfirmed, third)
	if n := count(h, fleet.StateActivating, second); n != 0 {
		t.Errorf("the older generation was activated %d times", n)
	}
}

// TestNewerWaitsForActivation: a newer generation never ends an activation.
func TestNewerWaitsForActivation(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "one")
	dir := t.TempDir()
	door, begun := filepath.Join(dir, "door"), filepath.Join(dir, "begun")
	second := h.publish(2, "two", "touch '"+begun+"'\n"+gate(door))
	// Before that it is only an intent, which a newer one may replace.
	waitProfile(t, h, "begun", func(control.Profile) bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	third := h.publish(3, "three", "")
	looked := h.coord.Calls("GetDesired")
	h.coord.Wait("the newer one to be seen", func() bool { return h.coord.Calls("GetDesired") >= looked })
	open(t, door)
	h.coord.WaitState(fleet.StateConfirmed, third)
	if n := count(h, fleet.StateVerified, second); n != 1 {
		t.Errorf("the older generation was verified %d times", n)
	}
}

// TestKeptIsSuperseded: a generation that was kept though inconclusive gives
// way to a newer one, whose way back leads to the last that was verified.
func TestKeptIsSuperseded(t *testing.T) {
	h := newHost(t)
	h.start()
	good := h.confirmed(1, "good")
	h.publish(2, "unsure", "", verifyIn(300*time.Millisecond), func(g *fleet.Generation) {
		g.Policy.OnInconclusive = fleet.InconclusiveKeep
		g.Probes = []fleet.Probe{{Name: "unsure", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 75"}}}
	})
	h.coord.WaitReason(fleet.ReasonInconclusive)
	h.expectServing("unsure")
	h.publish(3, "bad", "exit 1")
	h.coord.WaitState(fleet.StateRolledBack, good)
	h.expectServing("good")
}
