package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cameronraysmith/fleet/agent/internal/handover"
	"github.com/cameronraysmith/fleet/agent/internal/systemd"
	"github.com/cameronraysmith/fleet/agent/internal/systemd/systemdtest"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

const ownUnit = "fleet-agent.service"

// managed is a host whose agent is a service: activations write its unit.
type managed struct {
	*host
	server  *systemdtest.Server
	unit    string
	program string
}

func newManaged(t *testing.T) *managed {
	t.Helper()
	h := newHost(t)
	h.config.DeadMan.Margin = 2 * time.Second
	m := &managed{host: h, server: systemdtest.Start(t)}
	dir := t.TempDir()
	m.unit, m.program = filepath.Join(dir, ownUnit), filepath.Join(dir, "program")
	if err := errors.Join(os.WriteFile(m.unit, []byte("1\n"), 0o600), os.WriteFile(m.program, nil, 0o700)); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	m.define(systemd.Definition{Load: "loaded", Enabled: "enabled", Files: []string{m.unit}, Argv: []string{m.program}})
	m.begin()
	return m
}

func (m *managed) define(d systemd.Definition) {
	d.MainPID = uint32(os.Getpid()) //nolint:gosec // It is one.
	m.server.Do(func() { m.server.Services = map[string]systemd.Definition{ownUnit: d} })
}

// begin starts an agent from what the service is now.
func (m *managed) begin() {
	m.t.Helper()
	var err error
	if m.config.Service, err = handover.Open(m.t.Context(), m.server.Address, ownUnit, handover.Process{PID: os.Getpid()}); err != nil {
		m.t.Fatal(err)
	}
	m.start()
}

// restarts is how often systemd was asked to start the agent anew.
func (m *managed) restarts() (n int) {
	m.server.Do(func() {
		for _, c := range m.server.Calls {
			if c == "RestartUnit "+ownUnit {
				n++
			}
		}
	})
	return n
}

// replaced waits until that was asked so often, and does it.
func (m *managed) replaced(times int) {
	m.t.Helper()
	m.askedFor(times)
	m.crash()
	m.begin()
}

func (m *managed) askedFor(times int) {
	m.t.Helper()
	for range 3000 {
		if m.restarts() >= times {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	m.t.Fatalf("the agent was to be started anew %d times, not %d", m.restarts(), times)
}

// brings is an activation that writes the agent's unit.
func (m *managed) brings(text string) string { return "echo '" + text + "' >'" + m.unit + "'" }

// TestHandsOver: an agent that a generation replaces does not verify it; the one that
// the host would start does, and nothing is activated twice.
func TestHandsOver(t *testing.T) {
	m := newManaged(t)
	m.confirmed(1, "one")
	second := m.publish(2, "two", m.brings("2"))
	m.askedFor(1)
	if n := count(m.host, fleet.StateVerified, second); n != 0 {
		t.Fatal("the agent before called it verified")
	}
	m.replaced(1)
	m.coord.WaitState(fleet.StateConfirmed, second)
	// What changes nothing about the agent is verified by the one that runs.
	third := m.publish(3, "three", m.brings("2"))
	m.coord.WaitState(fleet.StateConfirmed, third)
	if n := m.restarts(); n != 1 {
		t.Errorf("the agent was to be started anew %d times", n)
	}
	if n := count(m.host, fleet.StateActivating, second); n != 1 {
		t.Errorf("activated %d times", n)
	}
}

// TestSuccessorStaysAway: where the other agent never comes, the host goes back, and the
// one before goes on there.
func TestSuccessorStaysAway(t *testing.T) {
	m := newManaged(t)
	first := m.confirmed(1, "good")
	second := m.publish(2, "bad", m.brings("2"), verifyIn(time.Second))
	m.askedFor(1)
	m.crash()
	waitServing(t, m.host, "good")
	if err := os.WriteFile(m.unit, []byte("1\n"), 0o600); err != nil { // As the way back does.
		t.Fatal(err)
	}
	m.begin()
	p := waitLocal(t, m.host, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonNotVerified {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	if n := count(m.host, fleet.StateVerified, second); n != 0 {
		t.Errorf("called verified %d times", n)
	}
}

// TestSuccessorGoesBack: an agent that took over and takes the host back hands over to
// the one before.
func TestSuccessorGoesBack(t *testing.T) {
	m := newManaged(t)
	first := m.confirmed(1, "good")
	// The way back is the activation of what was there before.
	m.publish(2, "bad", m.brings("2"), func(g *fleet.Generation) {
		g.Probes = []fleet.Probe{{Name: "no", Kind: fleet.ProbeExec, Argv: []string{"/bin/sh", "-c", "echo 1 >'" + m.unit + "'; exit 1"}}}
	})
	m.replaced(1)
	// It is the one that verifies the way back.
	m.replaced(2)
	p := waitLocal(t, m.host, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonProbeFailed {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	if n := m.restarts(); n != 2 {
		t.Errorf("the agent was to be started anew %d times", n)
	}
}

// TestAgentMissing: a generation that leaves the host without an agent is rolled back,
// but for one that says so.
func TestAgentMissing(t *testing.T) {
	m := newManaged(t)
	first := m.confirmed(1, "good")
	m.define(systemd.Definition{Load: "not-found"})
	second := m.publish(2, "bare", "")
	p := waitLocal(t, m.host, fleet.StateRolledBack)
	if n := count(m.host, fleet.StateVerified, second); n != 0 {
		t.Errorf("called verified %d times", n)
	}
	if p.Current != first || p.Reason.Code != fleet.ReasonAgentMissing || !strings.Contains(p.Reason.Message, ownUnit+" is not-found") {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	third := m.publish(3, "gone", "", func(g *fleet.Generation) { g.Policy.Agent = fleet.AgentLeaves })
	m.coord.WaitState(fleet.StateConfirmed, third)
	if n := m.restarts(); n != 0 {
		t.Errorf("the agent was to be started anew %d times", n)
	}
}

// TestPersonReplacesAgent: what somebody installs by hand is started as well, but not in
// the midst of an activation, nor before systemd was told to read it.
func TestPersonReplacesAgent(t *testing.T) {
	m := newManaged(t)
	m.confirmed(1, "one")
	none := func(what string) {
		t.Helper()
		m.agent.succeed(t.Context())
		if n := m.restarts(); n != 0 {
			t.Fatalf("%s: the agent was to be started anew %d times", what, n)
		}
	}
	none("nothing changed")
	dir := t.TempDir()
	hold, looked := filepath.Join(dir, "hold"), filepath.Join(dir, "looked")
	open(t, hold)
	second := m.publish(2, "two", "", func(g *fleet.Generation) {
		g.Probes = []fleet.Probe{{
			Name: "unsure", Kind: fleet.ProbeExec, Interval: fleet.Duration(20 * time.Millisecond),
			Argv: []string{"/bin/sh", "-c", "touch '" + looked + "'; ! [ -e '" + hold + "' ] || exit 75"},
		}}
	})
	waitFile(t, looked) // By the agent that is to verify it.
	if err := os.WriteFile(m.unit, []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	none("in the midst of an activation")
	// Before that is over: the agent looks by itself, too, some seconds after work.
	stale := systemd.Definition{Load: "loaded", Enabled: "enabled", Files: []string{m.unit}, Argv: []string{m.program}, Stale: true}
	m.define(stale)
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	m.coord.WaitState(fleet.StateConfirmed, second)
	none("not read yet")
	stale.Stale = false
	m.define(stale)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.agent.succeed(ctx)
	}()
	m.askedFor(1)
	cancel()
	<-ended
}

// TestGoneBefore: an agent that a person took out of the system is not held against
// generations.
func TestGoneBefore(t *testing.T) {
	m := newManaged(t)
	m.confirmed(1, "one")
	m.define(systemd.Definition{Load: "masked"})
	m.agent.succeed(t.Context())
	m.confirmed(2, "two")
}

// TestDisabled: nor may a generation keep the agent from starting with the system, also
// where the agent was started anew meanwhile.
func TestDisabled(t *testing.T) {
	m := newManaged(t)
	first := m.confirmed(1, "one")
	dir := t.TempDir()
	hold := filepath.Join(dir, "hold")
	open(t, hold)
	m.publish(2, "two", "while [ -e '"+hold+"' ]; do sleep 0.1; done")
	waitServing(t, m.host, "two")
	m.define(systemd.Definition{Load: "loaded", Enabled: "disabled", Files: []string{m.unit}, Argv: []string{m.program}})
	m.crash()
	m.begin()
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	p := waitLocal(t, m.host, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonAgentMissing || !strings.Contains(p.Reason.Message, "it is disabled") {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
}

// TestSystemdDoesNotSay: nothing is verified while it can't be told whether this agent
// is the one to say so.
func TestSystemdDoesNotSay(t *testing.T) {
	m := newManaged(t)
	first := m.confirmed(1, "one")
	if err := errors.Join(os.Remove(m.unit), os.Mkdir(m.unit, 0o700)); err != nil {
		t.Fatal(err)
	}
	second := m.publish(2, "two", "", verifyIn(time.Second))
	p := waitLocal(t, m.host, fleet.StateRolledBack)
	if p.Current != first || p.Reason.Code != fleet.ReasonInconclusive || !strings.Contains(p.Reason.Message, "can't be told") {
		t.Errorf("the host is at %v: %+v", p.Current, p.Reason)
	}
	if n := count(m.host, fleet.StateVerified, second); n != 0 {
		t.Errorf("called verified %d times", n)
	}
}
