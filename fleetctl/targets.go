package fleetctl

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cameronraysmith/fleet/fleetctl/internal/client"
	"github.com/cameronraysmith/fleet/fleetctl/internal/publisher"
	"github.com/cameronraysmith/fleet/pkg/fleet"
	"github.com/cameronraysmith/fleet/pkg/inventory"
	"github.com/cameronraysmith/fleet/pkg/ui"
)

// errNotSelectable is a named machine that can't be published to.
var errNotSelectable = errors.New("nothing can be published to it")

// leftOut are machines that nothing is published to.
type leftOut struct {
	noSource []string
	banned   []string
}

// selectTargets turns names, or none for all, into targets: the machine's system,
// and its other profiles. Of all machines
// the disabled ones, the banned ones and those without a source are left out;
// a named one of these is an error.
func selectTargets(w *workspace, names []string) (targets []publisher.Target, left leftOut, err error) {
	var machines []inventory.Machine
	for _, name := range names {
		m, err := w.machine(name)
		if err != nil {
			return nil, left, err
		}
		if m.Disabled {
			return nil, left, ui.WithHint(fmt.Errorf("%s is disabled: %w", name, errNotSelectable), `take it out of "disabled" in fleet.yaml`)
		}
		if _, banned := w.banned[m.Name]; banned {
			return nil, left, ui.WithHint(fmt.Errorf("%s is banned: %w", name, errNotSelectable),
				fmt.Sprintf("lift the ban with fleetctl ban %s --lift --reason TEXT, if that is over", name))
		}
		if !slices.ContainsFunc(machines, func(o inventory.Machine) bool { return o.Name == m.Name }) {
			machines = append(machines, m)
		}
	}
	if len(names) == 0 {
		machines = slices.DeleteFunc(w.fleet.Machines(), func(m inventory.Machine) bool { return m.Disabled })
	}
	slices.SortFunc(machines, func(a, b inventory.Machine) int { return strings.Compare(string(a.Name), string(b.Name)) })
	witnesses, err := w.witnesses()
	if err != nil {
		return nil, left, err
	}
	deployed, err := w.deployed()
	if err != nil {
		return nil, left, err
	}
	for _, m := range machines {
		if _, banned := w.banned[m.Name]; banned {
			left.banned = append(left.banned, string(m.Name))
			continue
		}
		dep, err := w.fleet.Settings(m.Name)
		if err != nil {
			return nil, left, err
		}
		if dep.Source.IsZero() && len(dep.Profiles) == 0 {
			if len(names) > 0 {
				return nil, left, ui.WithHint(fmt.Errorf("%s has no source: %w", m.Name, errNotSelectable),
					fmt.Sprintf("set source: {bundle: DIR} or {flake: .} for it in fleet.yaml, below settings.machine.%s, say", m.Name))
			}
			left.noSource = append(left.noSource, string(m.Name))
			continue
		}
		if !dep.Source.IsZero() {
			t, err := target(w, m, dep, deployed)
			if err != nil {
				return nil, left, err
			}
			t.Reach = w.reach(m.Name, dep.Witness, witnesses)
			targets = append(targets, t)
		}
		for _, p := range dep.Profiles {
			targets = append(targets, publisher.Target{
				Machine: m.Name, Profile: p.Name, Source: p.Source, Plugins: p.Plugins,
				Probes: p.Probes, Policy: p.Policy.Policy, Expiry: time.Duration(p.Policy.Expiry), Age: dep.Age,
				Reach: w.reach(m.Name, "", witnesses), // The system's generation has this machine answer.
			})
		}
	}
	if len(targets) == 0 {
		return nil, left, ui.WithHint(errors.New("no machine has anything to publish"), "set source: {bundle: DIR} or {flake: .} below settings in fleet.yaml")
	}
	return targets, left, nil
}

// target is the system of a machine.
func target(w *workspace, m inventory.Machine, dep inventory.Deployment, deployed *deployedValues) (publisher.Target, error) {
	t := publisher.Target{
		Machine: m.Name, Profile: fleet.System, Source: dep.Source, Plugins: dep.Plugins,
		Probes: dep.Probes, Policy: dep.Policy.Policy, Expiry: time.Duration(dep.Policy.Expiry), Age: dep.Age,
	}
	for _, name := range slices.Sorted(maps.Keys(dep.Secrets)) {
		s := dep.Secrets[name]
		t.Secrets = append(t.Secrets, publisher.Secret{
			Name: name, File: s.File, Path: s.Path, Owner: s.Owner, Group: s.Group, Mode: s.Mode,
			NeededFor: s.NeededFor, RestartUnits: s.RestartUnits,
		})
	}
	generated, err := deployed.of(m.Name)
	if err != nil {
		return t, err
	}
	t.Secrets = append(t.Secrets, generated...)
	if err := fitting(m, t.Secrets); err != nil {
		return t, err
	}
	if t.Age == "" && len(t.Secrets) > 0 {
		key, err := inventory.MachineKey(w.fleet.Dir(), m.Name)
		if err != nil && !errors.Is(err, inventory.ErrNoKey) {
			return t, err
		}
		t.Age = key
	}
	return t, nil
}

// fitting refuses secrets that a machine of that class can't have, or not all of them.
func fitting(m inventory.Machine, secrets []publisher.Secret) error {
	named := map[fleet.SecretName]bool{}
	for _, s := range secrets {
		if m.Class == fleet.ClassDarwin && (len(s.RestartUnits) > 0 || s.NeededFor == fleet.NeededForUsers) {
			return ui.WithHint(fmt.Errorf("secret %s of %s restarts units or is needed for users, and a Mac has no systemd", s.Name, m.Name),
				"leave out restart and needed_for in the scopes that a darwin machine is in; restartUnits and neededFor of a generator's file likewise")
		}
		if named[s.Name] {
			return ui.WithHint(fmt.Errorf("%s has two secrets called %s", m.Name, s.Name),
				"that of a generator is called GENERATOR.FILE: give the other one, or the generator, another name")
		}
		named[s.Name] = true
	}
	return nil
}

// inventory is what the coordinator is told of the fleet.
func (w *workspace) inventory() client.Inventory {
	var inv client.Inventory
	for _, m := range w.fleet.Machines() {
		inv.Machines = append(inv.Machines, client.Machine{Name: m.Name, Class: m.Class, Tags: m.Tags, Disabled: m.Disabled})
	}
	for _, o := range w.operators {
		inv.Operators = append(inv.Operators, client.Operator{
			Name: o.Name, Role: o.Role, Key: o.Key, Changed: o.Changed, Removed: o.Removed, Reason: o.Reason,
		})
	}
	for _, name := range slices.Sorted(maps.Keys(w.banned)) {
		b := w.banned[name]
		inv.Bans = append(inv.Bans, client.Ban{Machine: b.Machine, Reason: b.Reason, Time: b.Time})
	}
	return inv
}
