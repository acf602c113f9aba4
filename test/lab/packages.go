//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

func packageScenarios() []scenario {
	return []scenario{
		{"install, upgrade, remove", "the debs of make packages on booted Debian hosts: nothing runs until it is enabled, the unit's program is the package's, enrolled and confirmed; an upgrade restarts the agent and ends nothing; purged, the agent is gone and its state is not, so that installed again it is the same host", installPackages},
	}
}

// setUpPackages boots hosts whose units and programs come with packages.
func setUpPackages(ctx context.Context, w *world) error {
	w.given = true
	if err := w.boot(ctx, hosts{}); err != nil {
		return err
	}
	for host, name := range map[string]string{webName: "fleet-agent", opsName: "fleet-coordinator"} {
		found, err := filepath.Glob(filepath.Join(w.bin, "packages", name+"_*_"+runtime.GOARCH+".deb"))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("%d debs of %s in %s/packages, want one; run make packages", len(found), name, w.bin)
		}
		h := w.web
		if host == opsName {
			h = w.ops
		}
		if err := copyFile(found[0], h.Path("/srv/"+name+".deb"), 0o644); err != nil {
			return err
		}
		if _, err := h.Shell(ctx, `dpkg -i /srv/`+name+`.deb
[ "$(systemctl is-enabled `+name+`)" = disabled ]
[ "$(systemctl is-active `+name+`)" = inactive ]
systemctl show -P FragmentPath `+name+` | grep -qx /usr/lib/systemd/system/`+name+`.service
[ "$(stat -c %a /etc/fleet)" = 700 ]`); err != nil {
			return fmt.Errorf("installing %s: %w", name, err)
		}
	}
	return nil
}

func installPackages(ctx context.Context, w *world) error {
	if err := w.foundEnabled(ctx); err != nil {
		return err
	}
	if err := w.enrolEnabled(ctx); err != nil {
		return err
	}
	pid, err := w.agentOf(ctx, "/usr/bin/fleet-agent")
	if err != nil {
		return err
	}
	if err := w.bundleRuns(ctx, "v1"); err != nil {
		return err
	}

	// The agent is upgraded by what it activates: as bundles do that bring debs.
	if err := w.bundle(ctx, "v2", "dpkg -i /srv/fleet-agent.deb"); err != nil {
		return err
	}
	number, err := w.publish(ctx)
	if err != nil {
		return err
	}
	p, err := w.settled(ctx, number, "confirmed")
	if err != nil {
		return err
	}
	if len(p.Refused) > 0 {
		return fmt.Errorf("an upgrade midway was held against a generation: %s", p)
	}
	upgraded, err := w.agentOf(ctx, "/usr/bin/fleet-agent")
	if err != nil {
		return err
	}
	if upgraded == pid {
		return errors.New("the upgrade did not restart the agent")
	}

	said, err := w.web.Shell(ctx, `dpkg --purge fleet-agent 2>&1
! systemctl is-active -q fleet-agent
[ ! -e /usr/bin/fleet-agent ]
[ -e /var/lib/fleet/agent/journal ]
systemctl is-active -q lab-bundle`)
	if err != nil {
		return fmt.Errorf("purging: %w: %s", err, said)
	}
	if !strings.Contains(said, "/var/lib/fleet is left as it is") {
		return fmt.Errorf("purging does not say what it leaves:\n%s", said)
	}
	// No join string: the one that is there was used.
	if _, err := w.web.Shell(ctx, `rm -f /etc/fleet/join; dpkg -i /srv/fleet-agent.deb; systemctl enable -q --now fleet-agent`); err != nil {
		return err
	}
	return w.bundleRuns(ctx, "v3")
}

// foundEnabled makes the fleet and starts the coordinator by the unit that is there.
func (w *world) foundEnabled(ctx context.Context) error {
	if _, err := w.ops.Run(ctx, "fleetctl", "init", repo, "--fleet", "lab", "--operator", "me",
		"--coordinator-machine", opsName, "--address", w.address()); err != nil {
		return err
	}
	if err := w.fleetFile(ctx, bundleSource, patient); err != nil {
		return err
	}
	if _, err := w.ops.Shell(ctx, `
install -D -m 0600 `+repo+`/trust/coordinator-kit.age /etc/fleet/coordinator-kit.age
install -D -m 0600 `+repo+`/trust/coordinator.agekey /etc/fleet/coordinator-kit.key
systemctl enable -q --now fleet-coordinator`); err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error {
		_, err := w.fleetctl(ctx, "status")
		return err
	})
}

// enrolEnabled brings a join string to the agent, by the unit that is there.
func (w *world) enrolEnabled(ctx context.Context) error {
	join, err := w.fleetctl(ctx, "token", webName)
	if err != nil {
		return err
	}
	if _, err := w.web.Input(ctx, join, "sh", "-euc", `umask 077; mkdir -p /etc/fleet; cat >/etc/fleet/join; systemctl enable -q --now fleet-agent`); err != nil {
		return err
	}
	return wait(ctx, settleTimeout, func() error {
		m, err := w.status(ctx)
		if err == nil && !m.Connected {
			err = errors.New("the agent is not connected")
		}
		return err
	})
}

// agentOf is the process of the agent's unit, which must run that program.
func (w *world) agentOf(ctx context.Context, program string) (string, error) {
	out, err := w.web.Shell(ctx, `pid=$(systemctl show -P MainPID fleet-agent); readlink "/proc/$pid/exe"; echo "$pid"`)
	if err != nil {
		return "", err
	}
	l := lines(out)
	if len(l) != 2 || l[0] != program {
		return "", fmt.Errorf("the agent runs as %q, want %s", l, program)
	}
	return l[1], nil
}
