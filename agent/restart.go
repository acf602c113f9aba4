package agent

import (
	"slices"

	"github.com/cameronraysmith/fleet/agent/internal/journal"
	"github.com/cameronraysmith/fleet/agent/internal/secrets"
	"github.com/cameronraysmith/fleet/pkg/driver"
	"github.com/cameronraysmith/fleet/pkg/fleet"
)

// restart has an action that leads from one generation to another restart the units that
// read secrets whose content is another one then, where they run, and each once. A unit
// that does not start again fails the action.
func (w *worker) restart(do *driver.Action, from, to journal.Built) {
	if to.Secrets == "" || from.Secrets == to.Secrets {
		return
	}
	m, _, err := w.a.bound.Load().desired.LoadAcceptedSecrets(to.Ref.Digest)
	if err != nil || m == nil {
		w.log.Warn("which units read secrets can't be told: none is restarted", "error", err)
		return
	}
	units := secrets.Restarts(from.Secrets, to.Secrets, m.Entries)
	if len(units) == 0 {
		return
	}
	if w.a.config.Systemctl == "" {
		w.log.Warn("this host has no systemd: units that read secrets are not restarted", "units", units)
		return
	}
	// The link is the first step. Where others follow, NixOS's switch restarts what it is
	// told to together with what changed otherwise, so that none is restarted twice.
	if len(do.Steps) > 1 && to.Driver == fleet.DriverNixOS {
		do.Steps = slices.Insert(do.Steps, 1, switchRestarts(units))
		return
	}
	do.Steps = append(do.Steps, driver.Step{Exec: &driver.Exec{
		Argv: append([]string{w.a.config.Systemctl, "try-restart", "--"}, units...), Env: restartEnv,
		Meanings: map[int]string{1: "a unit that reads a secret did not start again", 5: "a unit that a secret restarts is not there"},
	}})
}

// restartEnv finds the programs of NixOS and of other systems.
var restartEnv = []string{"PATH=/run/current-system/sw/bin:/usr/bin:/bin:/usr/sbin:/sbin"}

// switchRestarts is what an activation script of NixOS does to have units restarted.
func switchRestarts(units []string) driver.Step {
	const script = `mkdir -p /run/nixos && printf '%s\n' "$@" >>/run/nixos/activation-restart-list`
	return driver.Step{Exec: &driver.Exec{Argv: append([]string{"/bin/sh", "-c", script, "sh"}, units...), Env: restartEnv, Contained: true}}
}
