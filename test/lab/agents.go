//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cameronraysmith/fleet/test/lab/booted"
)

const (
	// installedAgent is the program of the agent's unit, and nextAgent one of another
	// version.
	installedAgent = "/usr/local/bin/fleet-agent"
	nextAgent      = "/opt/fleet-next/fleet-agent"
	nextVersion    = "v9.9.9-lab"
	agentUnit      = "fleet-agent.service"
)

func agentScenarios() []scenario {
	return []scenario{
		{"another agent", "of another version: the generation's agent takes over within the verification and confirms it; activated once, and status has its version", agentNewer},
		{"the agent before", "the same back again, by a release: it goes on with the journal of the other", agentOlder},
		{"the agent before, by a rollback", "an operator sends the host back to the generation with the other version, and forward again: each takes over, and nothing is activated again", agentBackAndForth},
		{"an agent that ends at once", "with no agent that works the dead-man switch goes back and starts the one before, which refuses the release", func(ctx context.Context, w *world) error {
			return w.agentIsUndone(ctx, "/bin/false", "")
		}},
		{"an agent that hangs", "the same", func(ctx context.Context, w *world) error {
			return w.agentIsUndone(ctx, "/bin/sleep infinity", "")
		}},
		{"an agent that can't read its journal", "the same", func(ctx context.Context, w *world) error {
			return w.agentIsUndone(ctx, "", "InaccessiblePaths=/var/lib/fleet/agent/journal")
		}},
		{"an agent that finds no host identity", "the same", func(ctx context.Context, w *world) error {
			return w.agentIsUndone(ctx, "", "TemporaryFileSystem=/var/lib/fleet/agent/identity")
		}},
		{"an agent whose program is not there", "rolled back and refused as soon as it is activated, and status says why", func(ctx context.Context, w *world) error {
			return w.agentIsMissing(ctx, map[string]string{agentUnit: strings.ReplaceAll(w.agentUnit, installedAgent, "/nowhere/fleet-agent")}, "/nowhere/fleet-agent, the program of "+agentUnit+", is not there")
		}},
		{"the agent's unit is left out", "the same", func(ctx context.Context, w *world) error {
			return w.agentIsMissing(ctx, nil, agentUnit+" is not-found")
		}},
		{"a person installs another agent", "switched by hand: it is started within a minute, and the next release is confirmed", agentByHand},
		{"the host leaves the fleet", "policy agent: leaves: a generation without the agent is confirmed", agentLeaves},
	}
}

// setUpAgents boots a host whose agent is part of its system.
func setUpAgents(ctx context.Context, w *world) error {
	if err := w.setUpNixOS(ctx, hosts{}); err != nil {
		return err
	}
	text, err := w.web.Run(ctx, "cat", "/etc/systemd/system/"+agentUnit)
	if err != nil {
		return err
	}
	// The switch's margin is no part of what a scenario shows.
	w.agentUnit = strings.Replace(text, installedAgent+" run", installedAgent+" run --dead-man-margin 3s", 1)
	if w.agentUnit == text {
		return fmt.Errorf("the agent's unit does not start %s:\n%s", installedAgent, text)
	}
	if err := w.compile(ctx, "fleet-agent-next", "./cmd/fleet-agent", "build", "-tags", "grpcnotrace", "-trimpath",
		"-ldflags", "-s -w -X github.com/cameronraysmith/fleet/pkg/buildinfo.version="+nextVersion); err != nil {
		return err
	}
	if _, err := w.web.Shell(ctx, "rm /etc/systemd/system/"+agentUnit+"; install -D "+booted.Programs+"/fleet-agent-next "+nextAgent); err != nil {
		return err
	}
	if err := w.install(ctx, w.withAgent(installedAgent)); err != nil {
		return err
	}
	if _, err := w.web.Run(ctx, "systemctl", "restart", "fleet-agent"); err != nil {
		return err
	}
	if err := w.connected(ctx); err != nil {
		return err
	}
	return w.becomesGood(ctx, w.withAgent(installedAgent))
}

// withAgent is a release whose agent is that program.
func (w *world) withAgent(program string) release {
	return release{units: map[string]string{agentUnit: strings.ReplaceAll(w.agentUnit, installedAgent, program)}}
}

// agentBecomes deploys a release that brings another agent.
func (w *world) agentBecomes(ctx context.Context, program string) error {
	before, err := w.agentPID(ctx)
	if err != nil {
		return err
	}
	if err := w.becomesGood(ctx, w.withAgent(program)); err != nil {
		return err
	}
	after, err := w.agentOf(ctx, program)
	if err == nil && after == before {
		err = errors.New("the agent was not started anew")
	}
	return err
}

// isVersion waits until the coordinator knows what version the agent is of.
func (w *world) isVersion(ctx context.Context, next bool) error {
	return wait(ctx, settleTimeout, func() error {
		m, err := w.status(ctx)
		if err == nil && (m.AgentVersion == nextVersion) != next {
			err = fmt.Errorf("the agent is of version %s", m.AgentVersion)
		}
		return err
	})
}

func agentNewer(ctx context.Context, w *world) error {
	if err := w.agentBecomes(ctx, nextAgent); err != nil {
		return err
	}
	return w.isVersion(ctx, true)
}

func agentOlder(ctx context.Context, w *world) error {
	if err := w.agentBecomes(ctx, installedAgent); err != nil {
		return err
	}
	return w.isVersion(ctx, false)
}

// agentBackAndForth has an operator send the host back from one version to the other, and
// a release bring it forward.
func agentBackAndForth(ctx context.Context, w *world) error {
	if err := agentNewer(ctx, w); err != nil {
		return err
	}
	newer := w.good
	p, err := w.profile(ctx, systemProfile)
	if err != nil {
		return err
	}
	if err := agentOlder(ctx, w); err != nil {
		return err
	}
	if _, err := w.fleetctl(ctx, "rollback", webName); err != nil {
		return err
	}
	if err := errors.Join(w.isGood(ctx, deployed{newer, p.Current.Number}, 2), w.isVersion(ctx, true)); err != nil {
		return err
	}
	return agentOlder(ctx, w)
}

// agentIsUndone deploys a release whose agent does not work, because of what its unit
// starts instead, or of what it has besides.
func (w *world) agentIsUndone(ctx context.Context, command, setting string) (err error) {
	if err := w.fleetFile(ctx, nixosSource, hasty); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.fleetFile(ctx, nixosSource, patient)) }()
	unit := w.agentUnit
	if command != "" {
		unit = replaceStart(unit, command)
	}
	if setting != "" {
		unit = strings.Replace(unit, "[Service]\n", "[Service]\n"+setting+"\n", 1)
	}
	if err := w.becomesUndone(ctx, release{units: map[string]string{agentUnit: unit}}); err != nil {
		return err
	}
	_, err = w.agentOf(ctx, installedAgent)
	return err
}

// replaceStart is a unit that starts something else.
func replaceStart(unit, command string) string {
	var out strings.Builder
	for line := range strings.Lines(unit) {
		if strings.HasPrefix(line, "ExecStart=") {
			line = "ExecStart=" + command + "\n"
		}
		out.WriteString(line)
	}
	return out.String()
}

// agentIsMissing deploys a release after which no agent would be started.
func (w *world) agentIsMissing(ctx context.Context, units map[string]string, why string) error {
	before, err := w.agentPID(ctx)
	if err != nil {
		return err
	}
	if err := w.becomesUndone(ctx, release{units: units}); err != nil {
		return err
	}
	p, err := w.profile(ctx, systemProfile)
	if err == nil && p.Reason.Code != "agent-missing" {
		err = fmt.Errorf("the reason is another one: %s", p)
	}
	if err == nil {
		err = says(p.Reason.Message, why)
	}
	if err != nil {
		return err
	}
	after, err := w.agentOf(ctx, installedAgent)
	if err == nil && after != before {
		err = errors.New("the agent was started anew")
	}
	return err
}

func agentByHand(ctx context.Context, w *world) error {
	if err := w.install(ctx, w.withAgent(nextAgent)); err != nil {
		return err
	}
	if err := wait(ctx, lookTimeout, func() error {
		_, err := w.agentOf(ctx, nextAgent)
		return err
	}); err != nil {
		return err
	}
	if err := w.connected(ctx); err != nil {
		return err
	}
	return w.agentBecomes(ctx, installedAgent)
}

func agentLeaves(ctx context.Context, w *world) error {
	if err := w.fleetFile(ctx, nixosSource, strings.Replace(patient, "{", "{agent: leaves, ", 1)); err != nil {
		return err
	}
	return w.becomesGood(ctx, release{})
}
