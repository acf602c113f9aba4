package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/control"
	"github.com/cameronraysmith/fleet/agent/internal/deadman"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// never is a probe that is inconclusive for ever.
func never(g *fleet.Generation) {
	g.Probes = []fleet.Probe{{Name: "never", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "exit 75"}}}
}

// waitServing waits until the host's service answers so, without an agent.
func waitServing(t *testing.T, h *host, want string) {
	t.Helper()
	for range 3000 {
		if b, err := os.ReadFile(h.serving()); err == nil && string(b) == want {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the service does not come to answer %q", want)
}

// TestAgentGoneWhileVerifying: an agent that does not come back does not leave the
// host on what nobody verified; the next one finds it back, and does not try again.
func TestAgentGoneWhileVerifying(t *testing.T) {
	h := newHost(t)
	h.config.DeadMan.Margin = 500 * time.Millisecond
	h.start()
	first := h.confirmed(1, "good")
	second := h.publish(2, "bad", "", verifyIn(time.Second), never)
	h.coord.WaitState(fleet.StateVerifying, second)
	h.crash()
	h.expectServing("bad")
	h.hurry(2 * time.Second)
	waitServing(t, h, "good")
	h.start()
	p := waitLocal(t, h, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonNotVerified {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	if n := count(h, fleet.StateActivating, second); n != 1 {
		t.Errorf("activated %d times", n)
	}
	third := h.publish(3, "better", "")
	h.coord.WaitState(fleet.StateConfirmed, third)
}

// hurry is what the agent's own Extend does, with a shorter time: it makes tests
// short whose generations have the deadlines that they always have.
func (h *host) hurry(after time.Duration) {
	h.t.Helper()
	c := &deadman.Children{Command: h.config.DeadMan.Command}
	s, err := deadman.Open(filepath.Join(h.config.StateDir, deadmanDir, "system"), c.Start)
	if err != nil {
		h.t.Fatal(err)
	}
	id, err := s.Order()
	if err == nil {
		err = s.Extend(h.t.Context(), id, after)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// waitExtended waits until the agent has given its switch more time.
func (h *host) waitExtended() {
	h.t.Helper()
	for range 6000 {
		var o struct {
			Sequence int `json:"sequence"`
		}
		data, err := os.ReadFile(filepath.Join(h.config.StateDir, deadmanDir, "system", "order.json"))
		if err == nil && json.Unmarshal(data, &o) == nil && o.Sequence > 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	h.t.Fatal("the agent does not give its switch more time")
}

// TestAgentGoneWhileActivating: an activation that hangs is ended, with what it
// started, before the way back; the generation was interrupted, and is tried again.
func TestAgentGoneWhileActivating(t *testing.T) {
	h := newHost(t)
	h.start()
	h.confirmed(1, "good")
	marks := t.TempDir()
	once := filepath.Join(marks, "once")
	second := h.publish(2, "slow", "test -e '"+once+"' || { touch '"+once+"'; sleep 600; }")
	waitServing(t, h, "slow")
	waitFile(t, once)
	h.crash()
	h.hurry(200 * time.Millisecond)
	waitServing(t, h, "good")
	h.start()
	h.coord.WaitState(fleet.StateConfirmed, second)
	if n := count(h, fleet.StateRolledBack, second); n != 1 {
		t.Errorf("rolled back %d times", n)
	}
	h.expectServing("slow")
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	for range 3000 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not come", path)
}

// TestSwitchWasFirst: an agent that is about to call a generation verified, and
// finds that the switch fired, goes back like the switch.
func TestSwitchWasFirst(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "good")
	dir := t.TempDir()
	hold := filepath.Join(dir, "hold")
	open(t, hold)
	second := h.publish(2, "late", "", func(g *fleet.Generation) { g.Probes = unsureWhile(hold) })
	h.coord.WaitState(fleet.StateVerifying, second)
	h.waitExtended() // else the agent's own word comes after this one
	h.hurry(time.Millisecond)
	waitServing(t, h, "good")
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	p := waitLocal(t, h, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonNotVerified {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	if n := count(h, fleet.StateVerified, second); n != 0 {
		t.Errorf("called verified %d times", n)
	}
}

// TestKeptIsNotTakenBack: what policy keeps although nobody can tell, the switch
// leaves alone, agent or not.
func TestKeptIsNotTakenBack(t *testing.T) {
	h := newHost(t)
	h.config.DeadMan.Margin = 300 * time.Millisecond
	h.start()
	h.confirmed(1, "good")
	second := h.publish(2, "kept", "", verifyIn(200*time.Millisecond), never, func(g *fleet.Generation) {
		g.Policy.OnInconclusive = fleet.InconclusiveKeep
		g.Policy.ActivationDeadline = fleet.Duration(4 * time.Second)
	})
	waitProfile(t, h, "kept", func(p control.Profile) bool { return p.Current == second && p.State == fleet.StateHeld })
	s, err := deadman.Open(filepath.Join(h.config.StateDir, deadmanDir, "system"), nil)
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Order()
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		if v, err := s.Verdict(id); err != nil || v != "" {
			if v != deadman.Kept {
				t.Fatalf("verdict %q: %v", v, err)
			}
			break
		}
		time.Sleep(time.Millisecond)
	}
	h.crash()
	time.Sleep(5 * time.Second) // beyond all deadlines of that generation
	h.expectServing("kept")
}

// TestNoSwitchNoActivation: without a switch that says it waits, nothing begins.
func TestNoSwitchNoActivation(t *testing.T) {
	h := newHost(t)
	h.start()
	first := h.confirmed(1, "good")
	h.crash()
	command := h.config.DeadMan.Command
	h.config.DeadMan.Command = []string{"/bin/false"}
	h.start()
	second := h.publish(2, "never", "")
	p := waitProfile(t, h, "said", func(p control.Profile) bool { return strings.Contains(p.Reason.Message, "dead-man switch") })
	if p.Current != first {
		t.Errorf("the host is at %v", p.Current)
	}
	// Not now and then only: it is what keeps the host from going on.
	for range 40 {
		p := waitProfile(t, h, "there", func(control.Profile) bool { return true })
		if !strings.Contains(p.Reason.Message, "dead-man switch") {
			t.Fatalf("while it is tried again the reason is %+v", p.Reason)
		}
		time.Sleep(25 * time.Millisecond)
	}
	h.expectServing("good")
	h.crash()
	h.config.DeadMan.Command = command
	h.start()
	h.coord.WaitState(fleet.StateConfirmed, second)
	if n := count(h, fleet.StateActivating, second); n > 2 {
		t.Errorf("%d intents", n)
	}
}
